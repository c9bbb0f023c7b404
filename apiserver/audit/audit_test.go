package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/coxswain/cox/client"
)

const policyYAML = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted]
rules:
- level: None
  users: ["system:kube-proxy"]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  resources: [{group: "", resources: ["secrets", "pods/log", "*/status"]}]
- level: Request
  omitStages: [RequestReceived]
  omitManagedFields: true
  verbs: ["create"]
  resources: [{group: "", resources: ["pods"]}]
  namespaces: ["ns"]
- level: RequestResponse
  userGroups: ["watched"]
- level: Metadata
  resources: [{group: "apps"}, {group: "batch", resources: ["jobs"], resourceNames: ["one"]}]
`

func mustPolicy(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicy(t *testing.T) {
	p := mustPolicy(t, policyYAML)
	for name, tc := range map[string]struct {
		r    Request
		want auditv1.Level
	}{
		"user":               {Request{User: client.User{Name: "system:kube-proxy"}, Resource: "secrets"}, auditv1.LevelNone},
		"path":               {Request{Path: "/healthz/etcd"}, auditv1.LevelNone},
		"other path":         {Request{Path: "/metrics"}, auditv1.LevelNone},
		"watched path":       {Request{Path: "/metrics", User: client.User{Groups: []string{"watched"}}}, auditv1.LevelRequestResponse},
		"secret":             {Request{Resource: "secrets", Verb: "get"}, auditv1.LevelMetadata},
		"log":                {Request{Resource: "pods", Subresource: "log"}, auditv1.LevelMetadata},
		"status of anything": {Request{Resource: "nodes", Subresource: "status"}, auditv1.LevelMetadata},
		"status elsewhere":   {Request{Group: "x.io", Resource: "things", Subresource: "status"}, auditv1.LevelNone},
		"pod":                {Request{Resource: "pods", Verb: "create", Namespace: "ns"}, auditv1.LevelRequest},
		"pod elsewhere":      {Request{Resource: "pods", Verb: "create", Namespace: "other"}, auditv1.LevelNone},
		"pod read":           {Request{Resource: "pods", Verb: "get", Namespace: "ns"}, auditv1.LevelNone},
		"whole group":        {Request{Group: "apps", Resource: "deployments", Subresource: "scale"}, auditv1.LevelMetadata},
		"named":              {Request{Group: "batch", Resource: "jobs", Name: "one"}, auditv1.LevelMetadata},
		"other name":         {Request{Group: "batch", Resource: "jobs", Name: "two"}, auditv1.LevelNone},
	} {
		if got := p.decide(&tc.r); got.level != tc.want {
			t.Errorf("%s: got %s, want %s", name, got.level, tc.want)
		}
	}
}

func TestPolicyRefused(t *testing.T) {
	head := "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
	for _, bad := range []string{
		"", "{", head, head + "rules: []", head + "rules: [{level: Loud}]", head + "rules: [{level: None, colour: red}]",
		"apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]",
		head + "rules: [{level: None, nonResourceURLs: [\"/a*b\"]}]", head + "rules: [{level: None, nonResourceURLs: [a]}]",
		head + "rules: [{level: None, nonResourceURLs: [\"/a\"], namespaces: [x]}]", head + "omitStages: [Never]\nrules: [{level: None}]",
		head + "rules: [{level: None, resources: [{resourceNames: [x]}]}]",
	} {
		if _, err := ParsePolicy([]byte(bad)); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

func collect(p *Policy, now *time.Time) (*Log, *[]*auditv1.Event) {
	var out []*auditv1.Event
	return New(p, SinkFunc(func(ev *auditv1.Event) error { out = append(out, ev); return nil }), func() time.Time { return *now }, nil), &out
}

func TestStages(t *testing.T) {
	now := time.Unix(1000, 0)
	log, out := collect(mustPolicy(t, policyYAML), &now)
	rec := log.Begin(&Request{ID: "id", Received: now, Verb: "update", URI: "/x", Resource: "configmaps", Namespace: "ns", Name: "c", Version: "v1",
		User: client.User{Name: "u", Groups: []string{"watched"}, Extra: map[string][]string{"k": {"v"}}}})
	rec.Annotate("a", "first")
	rec.Annotate("a", "second")
	rec.Impersonated(client.User{Name: "other"}, "impersonate:user-info")
	gvk := schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	rec.RequestObject(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: "uid-1"}, Data: map[string]string{"x": "1"}}, gvk)
	rec.ResponseObject(&corev1.ConfigMap{Data: map[string]string{"x": "2"}}, gvk)
	now = now.Add(time.Second)
	rec.ResponseStarted(200, nil) // omitted by the policy
	rec.End(409, &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonConflict, Message: "no"})
	rec.End(200, nil)
	rec.Panicked()
	if len(*out) != 2 {
		t.Fatalf("%d events", len(*out))
	}
	first, last := (*out)[0], (*out)[1]
	if first.Stage != auditv1.StageRequestReceived || first.ObjectRef.UID != "" || len(first.Annotations) != 0 || first.ResponseStatus != nil {
		t.Errorf("the first event shows what came later: %+v", first)
	}
	if last.Stage != auditv1.StageResponseComplete || last.Annotations["a"] != "first" || last.ObjectRef.UID != "uid-1" || last.ImpersonatedUser.Username != "other" || last.AuthenticationMetadata.ImpersonationConstraint != "impersonate:user-info" ||
		last.ResponseStatus.Code != 409 || last.ResponseStatus.Reason != metav1.StatusReasonConflict || last.StageTimestamp.Sub(last.RequestReceivedTimestamp.Time) != time.Second {
		t.Errorf("got %+v", last)
	}
	var body struct{ Kind, APIVersion string }
	if err := json.Unmarshal(last.RequestObject.Raw, &body); err != nil || body.Kind != "ConfigMap" || body.APIVersion != "v1" {
		t.Errorf("body %s %v", last.RequestObject.Raw, err)
	}
	if got := string(last.ResponseObject.Raw); !strings.Contains(got, `"reason":"Conflict"`) || !strings.Contains(got, `"kind":"Status"`) {
		t.Errorf("answer %s", last.ResponseObject.Raw)
	}
}

func TestLevelsBoundWhatIsRecorded(t *testing.T) {
	now := time.Unix(1000, 0)
	log, out := collect(mustPolicy(t, policyYAML), &now)
	secret := &corev1.Secret{Data: map[string][]byte{"k": []byte("hidden")}}
	rec := log.Begin(&Request{Resource: "secrets", Verb: "create", Namespace: "ns"})
	rec.RequestObject(secret, schema.GroupVersionKind{})
	rec.RequestPatch([]byte(`{"hidden":1}`))
	rec.ResponseObject(secret, schema.GroupVersionKind{})
	rec.End(201, nil)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}}}
	rec = log.Begin(&Request{Resource: "pods", Verb: "create", Namespace: "ns"})
	rec.RequestObject(pod, schema.GroupVersionKind{})
	rec.ResponseObject(pod, schema.GroupVersionKind{})
	rec.End(201, nil)
	if len(*out) != 3 { // the second omits RequestReceived
		t.Fatalf("%d events", len(*out))
	}
	if s := (*out)[1]; s.RequestObject != nil || s.ResponseObject != nil {
		t.Error("Metadata recorded a body")
	}
	if p := (*out)[2]; p.RequestObject == nil || p.ResponseObject != nil || strings.Contains(string(p.RequestObject.Raw), "managedFields") {
		t.Errorf("Request recorded %s", p.RequestObject.Raw)
	}
	if len(pod.ManagedFields) != 1 {
		t.Error("the shared object was changed")
	}
}

func TestOffCostsNothing(t *testing.T) {
	var log *Log
	if New(nil, SinkFunc(func(*auditv1.Event) error { return nil }), time.Now, nil) != nil {
		t.Error("a log without a policy")
	}
	req := &Request{Resource: "pods"}
	if n := testing.AllocsPerRun(100, func() {
		rec := log.Begin(req)
		rec.Annotate("a", "b")
		rec.ResponseStarted(200, nil)
		rec.End(200, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	log.Begin(req).Panicked()
	log.Begin(req).Impersonated(client.User{}, "")
	if log.Begin(req).WantsBodies() != 0 {
		t.Error("wants bodies")
	}
}

func TestFailingSinkIsReported(t *testing.T) {
	var got error
	log := New(mustPolicy(t, policyYAML), SinkFunc(func(*auditv1.Event) error { return errors.New("disk full") }), time.Now, func(err error) { got = err })
	log.Begin(&Request{ID: "7", Resource: "secrets"}).End(200, nil)
	if got == nil || !strings.Contains(got.Error(), "disk full") || !strings.Contains(got.Error(), "7") {
		t.Errorf("got %v", got)
	}
}

func TestFile(t *testing.T) {
	now := time.Unix(1000, 0)
	path := filepath.Join(t.TempDir(), "log", "audit.log")
	open := func() *File {
		f, err := OpenFile(FileOptions{Path: path, MaxBytes: 2000, MaxBackups: 2, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open() // narrows the mode again
	foreign := filepath.Join(filepath.Dir(path), "audit-notes.log")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		now = now.Add(time.Second)
		if err := f.Write(&auditv1.Event{AuditID: "id", Level: auditv1.LevelMetadata, RequestURI: strings.Repeat("x", i)}); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit-*.log"))
	if err != nil || len(files) != 3 {
		t.Errorf("%v are left, want two and the foreign one: %v", files, err)
	}
	lines := 0
	for _, name := range append(files, path) {
		st, err := os.Stat(name)
		if err != nil || st.Mode().Perm() != 0o600 || st.Size() > 2000 {
			t.Errorf("%s: %v %v", name, st, err)
		}
		in, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(in); s.Scan(); lines++ {
			var ev auditv1.Event
			if err := json.Unmarshal(s.Bytes(), &ev); err != nil || ev.AuditID != "id" {
				t.Errorf("torn line %q: %v", s.Text(), err)
			}
		}
		in.Close()
	}
	if lines == 0 {
		t.Error("nothing was written")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f.Write(&auditv1.Event{}) == nil {
		t.Error("written after the end")
	}
}

// Tokens are not for those who read the records.
func TestTokensAreLeftOut(t *testing.T) {
	var got []*auditv1.Event
	policy := mustPolicy(t, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]")
	log := New(policy, SinkFunc(func(ev *auditv1.Event) error { got = append(got, ev); return nil }), time.Now, nil)
	made := &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "hush"}}
	asked := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "hush", Audiences: []string{"a"}}}
	rec := log.Begin(&Request{Resource: "serviceaccounts", Subresource: "token", Verb: "create"})
	rec.RequestObject(asked, schema.GroupVersionKind{})
	rec.ResponseObject(made, schema.GroupVersionKind{})
	rec.End(201, nil)
	if made.Status.Token != "hush" || asked.Spec.Token != "hush" {
		t.Error("the answer itself was changed")
	}
	text, err := json.Marshal(got)
	if err != nil || strings.Contains(string(text), "hush") || !strings.Contains(string(text), `"audiences":["a"]`) {
		t.Errorf("recorded %s, %v", text, err)
	}
}
