package policies

import (
	"context"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/apiserver/fields"
	"github.com/coxswain/cox/apiserver/openapi"
	"github.com/coxswain/cox/client"
)

type readers struct{}

func (readers) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	if a.Verb == "get" {
		return authz.Allow, "", nil
	}
	return authz.NoOpinion, "", nil
}

type bench struct {
	t      *testing.T
	door   *doortest.Door
	m      *Manager
	warned []string
	notes  map[string]string
}

func newBench(t *testing.T) *bench {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, door: &doortest.Door{}, notes: map[string]string{}}
	doortest.Put(b.door, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"team": "a"}}})
	doortest.Put(b.door, client.ConfigMaps, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "params", Namespace: "ns", Labels: map[string]string{"p": "q"}}, Data: map[string]string{"limit": "3"},
	})
	b.m = New(Config{Door: b.door, Served: table.Resource, ServedKind: table.Kind, Authz: readers{},
		Types: func(gvr schema.GroupVersionResource) (managedfields.TypeConverter, error) {
			k, _ := table.Resource(gvr)
			return fields.Converter(table.Scheme, k.Hub)
		}})
	return b
}

func (b *bench) run() {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.m.Run(ctx) }()
	b.t.Cleanup(func() { cancel(); <-done })
	<-b.m.gate.Opened()
}

func to[T any](v T) *T { return &v }

func constraintsOn(resources ...string) *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{"*"}, Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: resources},
	}}}}
}

func (b *bench) write() *admission.Attributes {
	return &admission.Attributes{
		User: client.User{Name: "ann", Groups: []string{"dev"}}, Operation: admission.Create,
		Kind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, Resource: schema.GroupVersionResource{Version: "v1", Resource: "pods"},
		Namespace: "ns", Name: "p", Options: &client.Options{},
		Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i"}}, TerminationGracePeriodSeconds: to(int64(5)),
		}},
		Warn: func(s string) { b.warned = append(b.warned, s) }, Annotate: func(k, v string) { b.notes[k] = v },
	}
}

func TestValidating(t *testing.T) {
	type spec = admissionv1.ValidatingAdmissionPolicySpec
	type bound = admissionv1.ValidatingAdmissionPolicyBindingSpec
	validation := func(expr string) []admissionv1.Validation { return []admissionv1.Validation{{Expression: expr}} }
	cases := []struct {
		name   string
		policy func(*spec)
		bind   func(*bound)
		err    string
		warn   string
		note   string // key=value
	}{
		{name: "holds", policy: func(s *spec) { s.Validations = validation("object.spec.terminationGracePeriodSeconds == 5") }},
		{name: "fails", policy: func(s *spec) { s.Validations = validation("object.spec.terminationGracePeriodSeconds > 5") },
			err: `pods "p" is forbidden: ValidatingAdmissionPolicy 'pol' with binding 'bind' denied request: failed expression: object.spec.terminationGracePeriodSeconds > 5`},
		{name: "message", policy: func(s *spec) { s.Validations = []admissionv1.Validation{{Expression: "false", Message: "never"}} }, err: "denied request: never"},
		{name: "message expression", policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "false", Message: "never", MessageExpression: "'not ' + object.metadata.name"}}
		}, err: "denied request: not p"},
		{name: "variables", policy: func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "n", Expression: "object.spec.containers.size()"}, {Name: "m", Expression: "variables.n + 1"}}
			s.Validations = validation("variables.m == 3")
		}, err: "failed expression: variables.m == 3"},
		{name: "condition", policy: func(s *spec) {
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "no", Expression: "request.name == 'q'"}}
			s.Validations = validation("false")
		}},
		{name: "namespaceObject", policy: func(s *spec) { s.Validations = validation("namespaceObject.metadata.labels.team == 'b'") }, err: "denied"},
		{name: "authorizer", policy: func(s *spec) {
			s.Validations = validation("authorizer.group('').resource('pods').check('get').allowed() && authorizer.requestResource.check('delete').allowed()")
		}, err: "denied"},
		{name: "error", policy: func(s *spec) { s.Validations = validation("object.spec.nothing == 1") },
			err: "expression 'object.spec.nothing == 1' resulted in error: no such key: nothing"},
		{name: "error ignored", policy: func(s *spec) {
			s.Validations, s.FailurePolicy = validation("object.spec.nothing == 1"), to(admissionv1.Ignore)
		}},
		{name: "warn", policy: func(s *spec) { s.Validations = validation("false") },
			bind: func(b *bound) { b.ValidationActions = []admissionv1.ValidationAction{admissionv1.Warn} },
			warn: "Validation failed for ValidatingAdmissionPolicy 'pol' with binding 'bind': failed expression: false"},
		{name: "audit", policy: func(s *spec) { s.Validations = validation("false") },
			bind: func(b *bound) { b.ValidationActions = []admissionv1.ValidationAction{admissionv1.Audit} },
			note: `validation.policy.admission.k8s.io/validation_failure=[{"message":"failed expression: false","policy":"pol","binding":"bind","expressionIndex":0,"validationActions":["Audit"]}]`},
		{name: "annotation", policy: func(s *spec) {
			s.AuditAnnotations = []admissionv1.AuditAnnotation{{Key: "k", ValueExpression: "'name ' + object.metadata.name"}, {Key: "none", ValueExpression: "null"}}
		}, note: "pol/k=name p"},
		{name: "params", policy: func(s *spec) {
			s.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
			s.Validations = validation("object.spec.terminationGracePeriodSeconds <= int(params.data.limit)")
		}, bind: func(b *bound) {
			b.ParamRef = &admissionv1.ParamRef{Name: "params", ParameterNotFoundAction: to(admissionv1.DenyAction)}
		}, err: "failed expression"},
		{name: "params by selector", policy: func(s *spec) {
			s.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
			s.Validations = validation("params.data.limit == '4'")
		}, bind: func(b *bound) {
			b.ParamRef = &admissionv1.ParamRef{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"p": "q"}}, ParameterNotFoundAction: to(admissionv1.DenyAction)}
		}, err: "failed expression"},
		{name: "no params, denied", policy: func(s *spec) {
			s.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
			s.Validations = validation("true")
		}, bind: func(b *bound) {
			b.ParamRef = &admissionv1.ParamRef{Name: "gone", ParameterNotFoundAction: to(admissionv1.DenyAction)}
		}, err: "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
		{name: "no params, allowed", policy: func(s *spec) {
			s.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
			s.Validations = validation("false")
		}, bind: func(b *bound) {
			b.ParamRef = &admissionv1.ParamRef{Name: "gone", ParameterNotFoundAction: to(admissionv1.AllowAction)}
		}},
		{name: "no such kind", policy: func(s *spec) {
			s.ParamKind = &admissionv1.ParamKind{APIVersion: "example.com/v1", Kind: "Odd"}
			s.Validations = validation("true")
		}, bind: func(b *bound) { b.ParamRef = &admissionv1.ParamRef{Name: "x"} }, err: "failed to find resource referenced by paramKind: 'example.com/v1, Kind=Odd'"},
		{name: "other resource", policy: func(s *spec) { s.MatchConstraints, s.Validations = constraintsOn("services"), validation("false") }},
		{name: "binding of another namespace", policy: func(s *spec) { s.Validations = validation("false") }, bind: func(b *bound) {
			b.MatchResources = &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}}
		}},
		{name: "excluded", policy: func(s *spec) {
			s.Validations, s.MatchConstraints.ExcludeResourceRules = validation("false"), constraintsOn("pods").ResourceRules
		}},
		{name: "too dear", policy: func(s *spec) {
			s.Validations = validation("[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, a+b+c+d+e+f > 0))))))")
		}, err: "cost limit"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "pol"}, Spec: spec{MatchConstraints: constraintsOn("pods")}}
			c.policy(&p.Spec)
			bind := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "bind"}, Spec: bound{
				PolicyName: "pol", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			}}
			if c.bind != nil {
				c.bind(&bind.Spec)
			}
			doortest.Put(b.door, ValidatingPolicies, p)
			doortest.Put(b.door, ValidatingBindings, bind)
			b.run()
			err := b.m.Validating().Validate(t.Context(), b.write())
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if got := strings.Join(b.warned, "|"); got != c.warn {
				t.Errorf("warned %q, want %q", got, c.warn)
			}
			if key, value, ok := strings.Cut(c.note, "="); ok && b.notes[key] != value {
				t.Errorf("noted %v, want %s", b.notes, c.note)
			}
		})
	}
}

func TestMutating(t *testing.T) {
	type spec = admissionv1.MutatingAdmissionPolicySpec
	apply := func(expr string) admissionv1.Mutation {
		return admissionv1.Mutation{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: expr}}
	}
	jsonPatch := func(expr string) admissionv1.Mutation {
		return admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: expr}}
	}
	cases := []struct {
		name      string
		mutations []admissionv1.Mutation
		err       string
		check     func(*corev1.Pod) bool
	}{
		{"apply", []admissionv1.Mutation{apply(`Object{metadata: Object.metadata{labels: {"a": "b"}}, spec: Object.spec{containers: [Object.spec.containers{name: "side", image: "x"}]}}`)}, "",
			func(p *corev1.Pod) bool {
				return p.Labels["a"] == "b" && len(p.Spec.Containers) == 2 && p.Spec.Containers[0].Image == "i" && p.Spec.Containers[1].Name == "side"
			}},
		{"patch", []admissionv1.Mutation{jsonPatch(`[JSONPatch{op: "add", path: "/metadata/labels", value: {"x": "y"}}, JSONPatch{op: "replace", path: "/spec/containers/0/image", value: object.spec.containers[0].image + "2"}]`)}, "",
			func(p *corev1.Pod) bool { return p.Labels["x"] == "y" && p.Spec.Containers[0].Image == "i2" }},
		{"one after another", []admissionv1.Mutation{
			apply(`Object{metadata: Object.metadata{labels: {"n": "1"}}}`),
			jsonPatch(`[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b"), value: object.metadata.labels.n}]`),
		}, "", func(p *corev1.Pod) bool { return p.Labels["a/b"] == "1" }},
		{"defaults", []admissionv1.Mutation{apply(`Object{spec: Object.spec{containers: [Object.spec.containers{name: "side", image: "x"}]}}`)}, "",
			func(p *corev1.Pod) bool { return p.Spec.Containers[1].TerminationMessagePath != "" }},
		{"wrong type", []admissionv1.Mutation{apply(`Object{spec: Object.wrong{containers: []}}`)}, "policy 'pol' with binding 'bind' denied request: type mismatch", nil},
		{"wrong path", []admissionv1.Mutation{jsonPatch(`[JSONPatch{op: "remove", path: "/spec/none"}]`)}, "policy 'pol' with binding 'bind' denied request: JSON Patch: error in remove", nil},
		{"not in the schema", []admissionv1.Mutation{apply(`Object{nope: 1}`)}, "denied request: error applying patch: failed to convert patch object to typed object: .nope: field not declared in schema", nil},
		{"atomic", []admissionv1.Mutation{apply(`Object{spec: Object.spec{containers: [Object.spec.containers{name: "c", args: ["x"]}], tolerations: [Object.spec.tolerations{key: "x"}]}}`)},
			"error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args, .spec.tolerations", nil},
		{"unknown field", []admissionv1.Mutation{jsonPatch(`[JSONPatch{op: "add", path: "/spec/nope", value: 1}]`)}, `Internal error occurred: strict decoding error: unknown field "spec.nope"`, nil},
		{"wrong value", []admissionv1.Mutation{jsonPatch(`[JSONPatch{op: "add", path: "/spec/nodeName", value: 1}]`)}, "Internal error occurred: json: cannot unmarshal number into Go struct field PodSpec.spec.nodeName of type string", nil},
		{"another kind", []admissionv1.Mutation{jsonPatch(`[JSONPatch{op: "replace", path: "/kind", value: "zz"}]`)}, `Internal error occurred: no kind "zz" is registered for version "v1"`, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			doortest.Put(b.door, MutatingPolicies, &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "pol"}, Spec: spec{
				MatchConstraints: constraintsOn("pods"), Mutations: c.mutations, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			}})
			doortest.Put(b.door, MutatingBindings, &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "bind"},
				Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "pol"}})
			b.run()
			a := b.write()
			pod := a.Object.(*corev1.Pod)
			err := b.m.Mutating().Admit(t.Context(), a)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if c.check != nil && (!c.check(pod) || !a.Again) {
				t.Errorf("pod is %+v, again %v", pod, a.Again)
			}
		})
	}
}

func TestTypeChecking(t *testing.T) {
	b := newBench(t)
	b.m.cfg.Document = openapi.Document
	p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "pol", Generation: 1}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: constraintsOn("pods"),
		Variables:        []admissionv1.Variable{{Name: "n", Expression: "object.spec.containers.size()"}},
		Validations: []admissionv1.Validation{
			{Expression: "variables.n > 0 && object.spec.containers.all(c, c.image != '')"},
			{Expression: "object.spec.replicas > 1"}, {Expression: "variables.n == 'one'", MessageExpression: "object.metadata.none"},
		},
	}}
	got := b.m.typeCheck(p)
	var refs []string
	for _, w := range got {
		refs = append(refs, w.FieldRef)
	}
	if strings.Join(refs, " ") != "spec.validations[1].expression spec.validations[2].expression spec.validations[2].messageExpression" {
		t.Fatalf("warnings %v", got)
	}
	if !strings.Contains(got[0].Warning, "/v1, Kind=Pod: ERROR: <input>:1:12: undefined field 'replicas'") {
		t.Errorf("warning %q", got[0].Warning)
	}
}

func TestStatusIsWritten(t *testing.T) {
	b := newBench(t)
	b.m.cfg.Document = openapi.Document
	b.run()
	c := constraintsOn("deployments")
	c.ResourceRules[0].APIGroups = []string{"apps"}
	doortest.Put(b.door, ValidatingPolicies, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "pol", Generation: 1}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: c, Validations: []admissionv1.Validation{{Expression: "object.spec.replicas > '1'"}},
	}})
	w, err := ValidatingPolicies.In(b.door, "").Watch(t.Context(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		p := ev.Object.(*admissionv1.ValidatingAdmissionPolicy)
		if p.Status.ObservedGeneration != 1 {
			continue
		}
		if p.Status.TypeChecking == nil || len(p.Status.TypeChecking.ExpressionWarnings) != 1 {
			t.Errorf("status is %+v", p.Status)
		}
		return
	}
}
