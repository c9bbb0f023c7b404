package webhooks

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

// bench is a manager with a webhook that a test answers for.
type bench struct {
	t      testing.TB
	door   *doortest.Door
	m      *Manager
	server *httptest.Server
	calls  atomic.Int32
	answer func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse
	warned []string
	notes  map[string]string
}

func newBench(t testing.TB) *bench {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, door: &doortest.Door{}, notes: map[string]string{}}
	b.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.calls.Add(1)
		var rev admissionreviewv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&rev); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		rev.Response = b.answer(rev.Request)
		if rev.Response != nil && rev.Response.UID == "" {
			rev.Response.UID = rev.Request.UID
		}
		_ = json.NewEncoder(w).Encode(&rev)
	}))
	t.Cleanup(b.server.Close)
	doortest.Put(b.door, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"team": "a"}}})
	b.m = New(Config{Door: b.door, Served: table.Resource})
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

func (b *bench) hook(name string, change func(*admissionv1.MutatingWebhook)) admissionv1.MutatingWebhook {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.server.Certificate().Raw})
	h := admissionv1.MutatingWebhook{
		Name:         name,
		ClientConfig: admissionv1.WebhookClientConfig{URL: to(b.server.URL + "/" + name), CABundle: ca},
		Rules: []admissionv1.RuleWithOperations{{
			Operations: []admissionv1.OperationType{"*"},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
		}},
		SideEffects: to(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: to(int32(5)),
	}
	if change != nil {
		change(&h)
	}
	return h
}

func (b *bench) mutating(hooks ...admissionv1.MutatingWebhook) {
	doortest.Put(b.door, mutatingKind, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: hooks})
}

func (b *bench) validating(h admissionv1.MutatingWebhook) {
	doortest.Put(b.door, validatingKind, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, FailurePolicy: h.FailurePolicy, MatchPolicy: h.MatchPolicy,
		NamespaceSelector: h.NamespaceSelector, ObjectSelector: h.ObjectSelector, SideEffects: h.SideEffects,
		TimeoutSeconds: h.TimeoutSeconds, AdmissionReviewVersions: h.AdmissionReviewVersions, MatchConditions: h.MatchConditions,
	}}})
}

func (b *bench) attributes() *admission.Attributes {
	return &admission.Attributes{
		User: client.User{Name: "ann", Groups: []string{"dev"}}, Operation: admission.Create,
		Kind: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, Resource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"},
		Namespace: "ns", Name: "cm", Options: &client.Options{},
		Object:   &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "ns", Labels: map[string]string{"x": "y"}}, Data: map[string]string{"a": "b"}},
		Warn:     func(s string) { b.warned = append(b.warned, s) },
		Annotate: func(k, v string) { b.notes[k] = v },
	}
}

func allow(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
	return &admissionreviewv1.AdmissionResponse{Allowed: true}
}

func patch(text string) func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
	return func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		return &admissionreviewv1.AdmissionResponse{Allowed: true, Patch: []byte(text), PatchType: to(admissionreviewv1.PatchTypeJSONPatch)}
	}
}

func TestValidating(t *testing.T) {
	deny := func(st *metav1.Status) func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		return func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
			return &admissionreviewv1.AdmissionResponse{Result: st}
		}
	}
	fail, ignore := admissionv1.Fail, admissionv1.Ignore
	cases := []struct {
		name   string
		hook   func(*admissionv1.MutatingWebhook)
		write  func(*admission.Attributes)
		answer func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse
		err    string // what the error contains; "" is none
		calls  int32
	}{
		{name: "allowed", answer: allow, calls: 1},
		{name: "denied", answer: deny(&metav1.Status{Message: "no"}), err: `admission webhook "h.example.com" denied the request: no`, calls: 1},
		{name: "denied by reason", answer: deny(&metav1.Status{Reason: "Odd"}), err: `denied the request: Odd`, calls: 1},
		{name: "denied in silence", answer: deny(nil), err: `admission webhook "h.example.com" denied the request without explanation`, calls: 1},
		{name: "no answer", answer: func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse { return nil },
			hook: func(h *admissionv1.MutatingWebhook) { h.FailurePolicy = &fail },
			err:  `failed calling webhook "h.example.com": received invalid webhook response: webhook response was absent`, calls: 1},
		{name: "another uid", answer: func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
			return &admissionreviewv1.AdmissionResponse{UID: "x", Allowed: true}
		}, err: "expected response.uid=", calls: 1},
		{name: "patch", answer: func(r *admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
			return &admissionreviewv1.AdmissionResponse{UID: r.UID, Allowed: true, PatchType: to(admissionreviewv1.PatchTypeJSONPatch), Patch: []byte(`[]`)}
		}, err: "received invalid webhook response: validating webhook may not return response.patch", calls: 1},
		{name: "unreachable, ignored", answer: allow, hook: func(h *admissionv1.MutatingWebhook) {
			h.FailurePolicy, h.ClientConfig.CABundle = &ignore, nil
		}},
		{name: "unknown authority", answer: allow, hook: func(h *admissionv1.MutatingWebhook) { h.ClientConfig.CABundle = nil },
			err: `failed calling webhook "h.example.com": failed to call webhook: Post "https://`},
		{name: "other operation", answer: deny(nil), hook: func(h *admissionv1.MutatingWebhook) {
			h.Rules[0].Operations = []admissionv1.OperationType{"DELETE"}
		}},
		{name: "other resource", answer: deny(nil), hook: func(h *admissionv1.MutatingWebhook) { h.Rules[0].Resources = []string{"pods", "*/status"} }},
		{name: "scope", answer: deny(nil), hook: func(h *admissionv1.MutatingWebhook) { h.Rules[0].Scope = to(admissionv1.ClusterScope) }},
		{name: "namespace not selected", answer: deny(nil), hook: func(h *admissionv1.MutatingWebhook) {
			h.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}
		}},
		{name: "namespace selected", answer: deny(nil), err: "denied", calls: 1, hook: func(h *admissionv1.MutatingWebhook) {
			h.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
		}},
		{name: "object not selected", answer: deny(nil), hook: func(h *admissionv1.MutatingWebhook) {
			h.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"x": "z"}}
		}},
		{name: "condition false", answer: deny(nil), hook: func(h *admissionv1.MutatingWebhook) {
			h.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "request.userInfo.username != 'ann'"}}
		}},
		{name: "condition true", answer: deny(nil), err: "denied", calls: 1, hook: func(h *admissionv1.MutatingWebhook) {
			h.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "object.data.a == 'b' && request.kind.kind == 'ConfigMap'"}}
		}},
		{name: "condition in error", answer: deny(nil), err: "no such key: nope", hook: func(h *admissionv1.MutatingWebhook) {
			h.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "object.nope == 'b'"}}
		}},
		{name: "dry run refused", answer: allow, err: `admission webhook "h.example.com" does not support dry run`, hook: func(h *admissionv1.MutatingWebhook) {
			h.SideEffects = to(admissionv1.SideEffectClassSome)
		}, write: func(a *admission.Attributes) { a.DryRun = true }},
		{name: "never about itself", answer: deny(nil), hook: func(h *admissionv1.MutatingWebhook) {
			h.Rules[0].Rule = admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*"}}
		}, write: func(a *admission.Attributes) { a.Resource = validatingKind.GroupVersionResource }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.answer = c.answer
			b.validating(b.hook("h.example.com", c.hook))
			b.run()
			a := b.attributes()
			if c.write != nil {
				c.write(a)
			}
			err := b.m.Validating().Validate(t.Context(), a)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if got := b.calls.Load(); got != c.calls {
				t.Errorf("asked %d times, want %d", got, c.calls)
			}
		})
	}
}

func TestMutating(t *testing.T) {
	b := newBench(t)
	b.answer = func(r *admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		var cm corev1.ConfigMap
		if err := json.Unmarshal(r.Object.Raw, &cm); err != nil || cm.Kind != "ConfigMap" || cm.APIVersion != "v1" {
			t.Errorf("object is %s: %v", r.Object.Raw, err)
		}
		res := patch(`[{"op":"add","path":"/data/p","value":"q"}]`)(r)
		res.Warnings, res.AuditAnnotations = []string{"careful"}, map[string]string{"k": "v"}
		return res
	}
	b.mutating(b.hook("h.example.com", nil))
	b.run()
	a := b.attributes()
	obj := a.Object.(*corev1.ConfigMap)
	if err := b.m.Mutating().Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if obj.Data["p"] != "q" || obj.Data["a"] != "b" || obj.Kind != "" {
		t.Errorf("object is %+v", obj)
	}
	if !a.Again {
		t.Error("a change does not ask for another round")
	}
	if len(b.warned) != 1 || b.notes["h.example.com/k"] != "v" {
		t.Errorf("warned %v, noted %v", b.warned, b.notes)
	}
	if got := b.notes["mutation.webhook.admission.k8s.io/round_0_index_0"]; got != `{"configuration":"m","webhook":"h.example.com","mutated":true}` {
		t.Errorf("mutation is noted as %s", got)
	}
}

func TestReinvocation(t *testing.T) {
	b := newBench(t)
	first := 0
	b.answer = func(r *admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		var cm corev1.ConfigMap
		_ = json.Unmarshal(r.Object.Raw, &cm)
		if cm.Data["second"] == "" && first == 0 {
			first++
			return allow(r)
		}
		if cm.Data["second"] == "" {
			return patch(`[{"op":"add","path":"/data/second","value":"1"}]`)(r)
		}
		return patch(`[{"op":"add","path":"/data/seen","value":"1"}]`)(r)
	}
	again := func(h *admissionv1.MutatingWebhook) {
		h.ReinvocationPolicy = to(admissionv1.IfNeededReinvocationPolicy)
	}
	b.mutating(b.hook("a.example.com", again), b.hook("b.example.com", nil))
	b.run()
	a := b.attributes()
	for a.Round = 0; a.Round < 2; a.Round++ {
		if err := b.m.Mutating().Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.Object.(*corev1.ConfigMap).Data; got["seen"] != "1" || b.calls.Load() != 3 {
		t.Errorf("data %v after %d calls, want the first webhook asked again and the second not", got, b.calls.Load())
	}
}

func TestChangesTakeEffect(t *testing.T) {
	b := newBench(t)
	b.answer = func(*admissionreviewv1.AdmissionRequest) *admissionreviewv1.AdmissionResponse {
		return &admissionreviewv1.AdmissionResponse{}
	}
	b.run()
	if err := b.m.Validating().Validate(t.Context(), b.attributes()); err != nil {
		t.Fatal(err)
	}
	b.validating(b.hook("h.example.com", nil))
	for b.m.Validating().Validate(t.Context(), b.attributes()) == nil {
		if t.Context().Err() != nil {
			t.Fatal("the new configuration is not followed")
		}
	}
}
