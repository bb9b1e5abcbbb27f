// What GitOps tools make of a PresenceRoute, by their own libraries: kstatus (kpt, Flux's default), Flux's evaluator of
// healthCheckExprs, and the Lua interpreter of Argo CD. testdata is written by the operator's own tests
// (operator/src/status/documents.rs); the checks are those of deploy/gitops that people apply.
package gitops

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

const (
	argoCDPatch       = "../../deploy/gitops/argocd-cm-patch.yaml"
	argoCDKey         = "resource.customizations.health.presenceroute.io_PresenceRoute"
	fluxKustomization = "../../deploy/gitops/flux-kustomization.yaml"
)

// Each document, and what the tools are to say of it. Flux's evaluator is not asked about an object that is being
// deleted.
var expected = map[string]struct{ kstatus, flux, argoCD string }{
	"new":             {"InProgress", "InProgress", "Progressing"},
	"starting":        {"InProgress", "InProgress", "Progressing"},
	"ready":           {"Current", "Current", "Healthy"},
	"edited":          {"InProgress", "InProgress", "Progressing"},
	"secret-missing":  {"InProgress", "InProgress", "Degraded"},
	"topic-missing":   {"InProgress", "InProgress", "Degraded"},
	"suspended":       {"InProgress", "Current", "Suspended"},
	"scaled-to-zero":  {"InProgress", "Current", "Suspended"},
	"rollout-stalled": {"Failed", "Failed", "Degraded"},
	"invalid":         {"Failed", "Failed", "Degraded"},
	"corrected":       {"Current", "Current", "Healthy"},
	"deleting":        {"Terminating", "", ""},
}

func documents(t *testing.T) map[string]*unstructured.Unstructured {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*unstructured.Unstructured{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(text); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if _, known := expected[name]; !known {
			t.Fatalf("%s: nothing is expected of it", file)
		}
		found[name] = object
	}
	if len(found) != len(expected) {
		t.Fatalf("testdata has %d documents, and %d are expected", len(found), len(expected))
	}
	return found
}

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func TestKstatusKnowsEachState(t *testing.T) {
	for name, object := range documents(t) {
		result, err := status.Compute(object)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if result.Status.String() != expected[name].kstatus {
			t.Errorf("%s: %s (%s), expected %s", name, result.Status, result.Message, expected[name].kstatus)
		}
	}
}

func TestKstatusQuotesWhatIsWrong(t *testing.T) {
	for name, words := range map[string]string{
		"secret-missing":  `Secret "genesys-webhook" does not exist`,
		"topic-missing":   "gen-presence-state",
		"rollout-stalled": "of an older generation",
		"invalid":         "spec.routes[0].when",
	} {
		result, err := status.Compute(documents(t)[name])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.Contains(result.Message, words) {
			t.Errorf("%s: %q does not contain %q", name, result.Message, words)
		}
	}
}

func TestFluxKnowsEachState(t *testing.T) {
	var kustomization struct {
		Spec struct {
			HealthCheckExprs []kustomize.CustomHealthCheck `json:"healthCheckExprs"`
		} `json:"spec"`
	}
	readYAML(t, fluxKustomization, &kustomization)
	checks := kustomization.Spec.HealthCheckExprs
	if len(checks) != 1 || checks[0].Kind != "PresenceRoute" || checks[0].APIVersion != "presenceroute.io/v1alpha1" {
		t.Fatalf("%s has other checks than one of PresenceRoute: %v", fluxKustomization, checks)
	}
	evaluator, err := cel.NewStatusEvaluator(&checks[0].HealthCheckExpressions)
	if err != nil {
		t.Fatal(err)
	}
	for name, object := range documents(t) {
		if expected[name].flux == "" {
			continue
		}
		result, err := evaluator.Evaluate(context.Background(), object)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if result.Status.String() != expected[name].flux {
			t.Errorf("%s: %s, expected %s", name, result.Status, expected[name].flux)
		}
	}
}

// As Argo CD runs it: the object is the global obj, and the standard libraries but for tables are not there.
func argoCDHealth(t *testing.T, script string, object *unstructured.Unstructured) (string, string) {
	t.Helper()
	interpreter := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer interpreter.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{{lua.LoadLibName, lua.OpenPackage}, {lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}} {
		if err := interpreter.CallByParam(lua.P{Fn: interpreter.NewFunction(library.open), Protect: true}, lua.LString(library.name)); err != nil {
			t.Fatal(err)
		}
	}
	interpreter.SetGlobal("obj", luaValue(interpreter, object.Object))
	if err := interpreter.DoString(script); err != nil {
		t.Fatal(err)
	}
	health, isTable := interpreter.Get(-1).(*lua.LTable)
	if !isTable {
		t.Fatalf("the script returns %s", interpreter.Get(-1).Type())
	}
	return health.RawGetString("status").String(), health.RawGetString("message").String()
}

func luaValue(interpreter *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		table := interpreter.NewTable()
		for key, below := range value {
			table.RawSetString(key, luaValue(interpreter, below))
		}
		return table
	case []any:
		table := interpreter.NewTable()
		for _, below := range value {
			table.Append(luaValue(interpreter, below))
		}
		return table
	case string:
		return lua.LString(value)
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	}
	return lua.LNil
}

func TestArgoCDKnowsEachState(t *testing.T) {
	var patch struct {
		Data map[string]string `json:"data"`
	}
	readYAML(t, argoCDPatch, &patch)
	for name, object := range documents(t) {
		if expected[name].argoCD == "" {
			continue
		}
		found, message := argoCDHealth(t, patch.Data[argoCDKey], object)
		if found != expected[name].argoCD || message == "" {
			t.Errorf("%s: %s (%q), expected %s", name, found, message, expected[name].argoCD)
		}
	}
}

// An object without any status, as one of an older CRD is, must not stop a tool with an error.
func TestAnObjectWithoutStatusIsUnderWay(t *testing.T) {
	object := documents(t)["new"]
	delete(object.Object, "status")
	var patch struct {
		Data map[string]string `json:"data"`
	}
	readYAML(t, argoCDPatch, &patch)
	if found, _ := argoCDHealth(t, patch.Data[argoCDKey], object); found != "Progressing" {
		t.Errorf("it is %s", found)
	}
}
