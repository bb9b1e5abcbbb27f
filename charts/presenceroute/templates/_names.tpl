{{/* Names and labels: how the chart's objects are called and found. */}}

{{/* The prefix of every name. 54 characters leave room for "-operator" in a name of at most 63. */}}
{{- define "presenceroute.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 54 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "presenceroute.operatorName" -}}
{{- printf "%s-operator" (include "presenceroute.fullname" .) -}}
{{- end }}

{{/*
The suffix of what is outside the release's namespace or of no namespace, so that releases of one name in several
namespaces do not clash.
*/}}
{{- define "presenceroute.outside" -}}
{{- printf "-%s" .Release.Namespace -}}
{{- end }}

{{- define "presenceroute.serviceAccountName" -}}
{{- if .Values.operator.serviceAccount.create -}}
{{- default (include "presenceroute.operatorName" .) .Values.operator.serviceAccount.name -}}
{{- else -}}
{{- required "operator.serviceAccount.name must name an existing ServiceAccount when operator.serviceAccount.create is false" .Values.operator.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/*
What selects the operator's pods. It can never change, because a Deployment's selector cannot, and because the relays'
NetworkPolicies let the operator in by its name.
*/}}
{{- define "presenceroute.selectorLabels" -}}
app.kubernetes.io/name: presenceroute
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* The operator's pods. Nothing in here changes with the chart's version alone. */}}
{{- define "presenceroute.podLabels" -}}
{{- $fixed := include "presenceroute.selectorLabels" . | fromYaml -}}
{{- $_ := set $fixed "app.kubernetes.io/part-of" "presenceroute" -}}
{{- merge $fixed .Values.operator.podLabels .Values.commonLabels | toYaml -}}
{{- end }}

{{/* Every object. The chart's own labels win over commonLabels. */}}
{{- define "presenceroute.labels" -}}
{{- $fixed := include "presenceroute.selectorLabels" . | fromYaml -}}
{{- $_ := set $fixed "app.kubernetes.io/part-of" "presenceroute" -}}
{{- $_ := set $fixed "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $fixed "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $fixed "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- merge $fixed .Values.commonLabels | toYaml -}}
{{- end }}

{{/* The pod of `helm test`, which no selector of the chart takes for an operator. */}}
{{- define "presenceroute.testLabels" -}}
{{- $labels := include "presenceroute.labels" . | fromYaml -}}
{{- set $labels "app.kubernetes.io/component" "test" | toYaml -}}
{{- end }}

{{/* The annotations field of an object's metadata, or nothing: (list $ ANNOTATIONS). The object's own win. */}}
{{- define "presenceroute.annotations" -}}
{{- with merge (dict) (index . 1) (index . 0).Values.commonAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{/* REPOSITORY@DIGEST, or REPOSITORY:TAG: (list $ IMAGE). */}}
{{- define "presenceroute.image" -}}
{{- $chart := (index . 0).Chart -}}
{{- with index . 1 -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end }}
