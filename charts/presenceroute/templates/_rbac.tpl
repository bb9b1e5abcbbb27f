{{/*
What the operator does in every namespace that it serves, for a ClusterRole or for Roles.
Nothing is granted that the operator does not use, and every rule says what it uses it for. `tests/run --only rights` proves both.
Objects are watched and written by server-side apply, so that only Secrets are ever read one by one.
*/}}
{{- define "presenceroute.rules" -}}
# Reads PresenceRoutes, and patches them to set and remove its finalizer.
- apiGroups: [presenceroute.io]
  resources: [presenceroutes]
  verbs: [list, watch, patch]
# Reports what is true.
- apiGroups: [presenceroute.io]
  resources: [presenceroutes/status]
  verbs: [patch]
# Owns what it makes. Where the API server enforces permissions on owner references, an owner that its children
# block the deletion of takes this right.
- apiGroups: [presenceroute.io]
  resources: [presenceroutes/finalizers]
  verbs: [update]
# Reads the Secrets that PresenceRoutes name (the OAuth client, the webhook secret, Kafka credentials) and sees when
# they change or appear; keeps the signing secrets of each route in a Secret of its own.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# Makes each route's routing table and relay configuration, its Service, and its ServiceAccount, which has no rights
# and whose token is not mounted.
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [list, watch, create, patch, delete]
# Finds the relay pods to ask each for its status, and annotates them after a change of the routing table, so that
# the kubelet gives them the new one at once.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
{{- if eq .Values.operator.relayStatus "ApiServer" }}
# Asks relay pods for their status through the API server (operator.relayStatus).
- apiGroups: [""]
  resources: [pods/proxy]
  verbs: [get]
{{- end }}
# Runs the relays.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
# Keeps relays available while nodes are drained.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
# Scales relays, for PresenceRoutes with spec.relay.autoscaling.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch, create, patch, delete]
# Exposes relays by an Ingress (spec.endpoint.ingress), and restricts their traffic (spec.relay.networkPolicy).
- apiGroups: [networking.k8s.io]
  resources: [ingresses, networkpolicies]
  verbs: [list, watch, create, patch, delete]
# Exposes relays by the Gateway API (spec.endpoint.gateway).
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [list, watch, create, patch, delete]
# Tells people what happened, and counts what happens again.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
