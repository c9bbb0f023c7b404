package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// judge is a webhook with a real server. It decides by the user's name.
type judge struct {
	kubeconfig string
	mu         sync.Mutex
	asked      []map[string]any
	code       int
	answer     string // instead of the decision
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	j := &judge{code: 200, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in map[string]any
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		j.asked = append(j.asked, in)
		w.WriteHeader(j.code)
		if j.answer != "" {
			fmt.Fprint(w, j.answer)
			return
		}
		status := map[string]any{"allowed": false, "reason": "who?"}
		switch in["spec"].(map[string]any)["user"] {
		case "ann":
			status = map[string]any{"allowed": true, "reason": "it is Ann"}
		case "eve":
			status = map[string]any{"allowed": false, "denied": true, "reason": "it is Eve"}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": in["apiVersion"], "kind": in["kind"], "status": status})
	}))
	t.Cleanup(srv.Close)
	text := fmt.Sprintf("clusters: [{name: c, cluster: {server: '%s', insecure-skip-tls-verify: true}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n", srv.URL)
	if err := os.WriteFile(j.kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return j
}

// questions returns what was asked since the last call.
func (j *judge) questions() []map[string]any {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.asked
	j.asked = nil
	return out
}

func (j *judge) set(code int, answer string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.code, j.answer = code, answer
}

// link is the YAML of one webhook authorizer.
func (j *judge) link(more string) string {
	return "- type: Webhook\n  name: judge.example\n  webhook:\n    timeout: 3s\n    subjectAccessReviewVersion: v1\n    matchConditionSubjectAccessReviewVersion: v1\n" +
		"    connectionInfo: {type: KubeConfigFile, kubeConfigFile: '" + j.kubeconfig + "'}\n" + more
}

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n"

// ours allows bob everything, and stands for RBAC.
type ours struct{}

func (ours) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	if a.User.Name == "bob" {
		return authz.Allow, "RBAC", nil
	}
	return authz.NoOpinion, "not Bob", nil
}

func open(t *testing.T, text string) (*Chain, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Config{Path: path, Types: map[string]authz.Authorizer{"RBAC": ours{}}, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return c, path
}

func get(user string) *authz.Attributes {
	return &authz.Attributes{User: client.User{Name: user, UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}, Verb: "list",
		Version: "v1", Resource: "pods", Namespace: "ns", FieldSelector: fields.ParseSelectorOrDie("spec.nodeName=n1,a!=b"),
		LabelSelector: labels.SelectorFromSet(labels.Set{"app": "x"})}
}

func TestDecisions(t *testing.T) {
	j := newJudge(t)
	c, _ := open(t, head+j.link("    failurePolicy: Deny\n")+"- {type: RBAC, name: rbac}\n")
	for _, tc := range []struct {
		user, reason string
		want         authz.Decision
		asked        int
	}{
		{"ann", "it is Ann", authz.Allow, 1},
		{"ann", "it is Ann", authz.Allow, 0},
		{"eve", "it is Eve", authz.Deny, 1},
		{"eve", "it is Eve", authz.Deny, 0},
		{"bob", "RBAC", authz.Allow, 1},
		{"joe", "who?\nnot Bob", authz.NoOpinion, 1},
		{"joe", "who?\nnot Bob", authz.NoOpinion, 0},
	} {
		d, reason, err := c.Authorize(t.Context(), get(tc.user))
		if d != tc.want || reason != tc.reason || err != nil {
			t.Errorf("%s: got %v %q %v", tc.user, d, reason, err)
		}
		if n := len(j.questions()); n != tc.asked {
			t.Errorf("%s: asked %d times", tc.user, n)
		}
	}
	// The administrators need no one's leave.
	root := get("eve")
	root.User.Groups = []string{authz.GroupMasters}
	if d, _, _ := c.Authorize(t.Context(), root); d != authz.Allow {
		t.Errorf("system:masters: %v", d)
	}
	// What is remembered is of exactly this question.
	for name, change := range map[string]func(*authz.Attributes){
		"verb":      func(a *authz.Attributes) { a.Verb = "delete" },
		"namespace": func(a *authz.Attributes) { a.Namespace = "other" },
		"uid":       func(a *authz.Attributes) { a.User.UID = "8" },
		"groups":    func(a *authz.Attributes) { a.User.Groups = nil },
		"extra":     func(a *authz.Attributes) { a.User.Extra = nil },
		"selector":  func(a *authz.Attributes) { a.FieldSelector = nil },
	} {
		a := get("ann")
		change(a)
		if _, _, err := c.Authorize(t.Context(), a); err != nil || len(j.questions()) != 1 {
			t.Errorf("%s: answered from memory", name)
		}
	}
	if _, _, incomplete, err := c.RulesFor(t.Context(), client.User{Name: "ann"}, "ns"); !incomplete || err == nil {
		t.Error("the list of rules claims to be whole")
	}
}

func TestQuestion(t *testing.T) {
	j := newJudge(t)
	for version, groups := range map[string]string{"v1": "groups", "v1beta1": "group"} {
		c, _ := open(t, head+strings.Replace(j.link("    failurePolicy: Deny\n"), "subjectAccessReviewVersion: v1", "subjectAccessReviewVersion: "+version, 1))
		if _, _, err := c.Authorize(t.Context(), get("ann")); err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal(j.questions()[0])
		var want any
		text := `{"apiVersion":"authorization.k8s.io/` + version + `","kind":"SubjectAccessReview","metadata":{},"status":{"allowed":false},
"spec":{"user":"ann","uid":"7","` + groups + `":["g"],"extra":{"k":["v"]},"resourceAttributes":{"namespace":"ns","verb":"list","version":"v1","resource":"pods",
"fieldSelector":{"requirements":[{"key":"a","operator":"NotIn","values":["b"]},{"key":"spec.nodeName","operator":"In","values":["n1"]}]},
"labelSelector":{"requirements":[{"key":"app","operator":"In","values":["x"]}]}}}}`
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if w, _ := json.Marshal(want); string(w) != string(got) {
			t.Errorf("%s: asked\n%s, want\n%s", version, got, w)
		}
		if _, _, err := c.Authorize(t.Context(), &authz.Attributes{User: client.User{Name: "ann"}, Verb: "get", Path: "/metrics"}); err != nil {
			t.Fatal(err)
		}
		if got := j.questions()[0]["spec"].(map[string]any)["nonResourceAttributes"]; fmt.Sprint(got) != "map[path:/metrics verb:get]" {
			t.Errorf("%s: asked %v", version, got)
		}
	}
}

func TestFailures(t *testing.T) {
	j := newJudge(t)
	for _, policy := range []string{"Deny", "NoOpinion"} {
		want := map[string]authz.Decision{"Deny": authz.Deny, "NoOpinion": authz.Allow}[policy]
		for name, tc := range map[string]struct {
			code   int
			answer string
		}{
			"refused": {403, "no"}, "no status": {200, "{}"}, "not JSON": {200, "<html>"}, "both": {200, `{"status":{"allowed":true,"denied":true}}`},
		} {
			j.set(tc.code, tc.answer)
			c, _ := open(t, head+j.link("    failurePolicy: "+policy+"\n")+"- {type: RBAC, name: rbac}\n")
			for range 2 {
				d, _, err := c.Authorize(t.Context(), get("bob"))
				if d != want || policy == "Deny" && err == nil {
					t.Errorf("%s, %s: got %v, %v", policy, name, d, err)
				}
			}
			if n := len(j.questions()); n != 2 {
				t.Errorf("%s, %s: an error is remembered: asked %d times", policy, name, n)
			}
		}
	}
}

func TestMatchConditions(t *testing.T) {
	j := newJudge(t)
	for name, tc := range map[string]struct {
		conditions string
		a          *authz.Attributes
		asked      bool
		deny       authz.Decision // with failurePolicy Deny
	}{
		"holds":           {"has(request.resourceAttributes) && request.resourceAttributes.namespace == 'ns'", get("ann"), true, authz.Allow},
		"holds not":       {"has(request.resourceAttributes) && request.resourceAttributes.namespace == 'kube-system'", get("ann"), false, authz.NoOpinion},
		"path":            {"has(request.resourceAttributes)", &authz.Attributes{User: client.User{Name: "ann"}, Verb: "get", Path: "/x"}, false, authz.NoOpinion},
		"empty strings":   {"request.resourceAttributes.subresource == '' && request.uid == '7'", get("ann"), true, authz.Allow},
		"groups":          {"'g' in request.groups && !('system:nodes' in request.groups)", get("ann"), true, authz.Allow},
		"extra":           {"request.extra['k'] == ['v']", get("ann"), true, authz.Allow},
		"selector":        {"request.resourceAttributes.fieldSelector.requirements.exists(r, r.key == 'spec.nodeName' && r.operator == 'In' && r.values == ['n1'])", get("ann"), true, authz.Allow},
		"error":           {"request.extra['nothing'] == ['v']", get("ann"), false, authz.Deny},
		"error and false": {"request.extra['nothing'] == ['v']; request.user == 'x'", get("ann"), false, authz.NoOpinion},
	} {
		text := strings.ReplaceAll(strings.ReplaceAll(tc.conditions, "'", "''"), "; ", "'}, {expression: '")
		for policy, want := range map[string]authz.Decision{"Deny": tc.deny, "NoOpinion": authz.NoOpinion} {
			if tc.asked {
				want = authz.Allow
			}
			c, _ := open(t, head+j.link("    failurePolicy: "+policy+"\n    matchConditions: [{expression: '"+text+"'}]\n"))
			d, _, err := c.Authorize(t.Context(), tc.a)
			if d != want || (len(j.questions()) > 0) != tc.asked {
				t.Errorf("%s, %s: got %v, %v", name, policy, d, err)
			}
		}
	}
}

func TestBadConfigurations(t *testing.T) {
	j := newJudge(t)
	good := head + j.link("    failurePolicy: Deny\n")
	open(t, good)
	for text, why := range map[string]string{
		strings.Replace(head, "authorizers:", "authorizers: []", 1): "at least one",
		"kind: Policy": "want apiserver.config.k8s.io/v1",
		good + "- {type: RBAC, name: judge.example}\n":                                        "Duplicate",
		good + "- {type: RBAC, name: a}\n- {type: RBAC, name: b}\n":                           "Duplicate",
		good + "- {type: Foo, name: a}\n":                                                     `supported values: "AlwaysAllow", "AlwaysDeny", "RBAC", "Webhook"`,
		good + "- {type: RBAC}\n":                                                             "name: Required",
		good + "- {type: RBAC, name: 'A B'}\n":                                                "name is invalid",
		good + "- {type: RBAC, name: a, webhook: {}}\n":                                       "only be specified when",
		good + "- {type: Webhook, name: a}\n":                                                 "required when type=Webhook",
		strings.Replace(good, "timeout: 3s", "timeout: 31s", 1):                               "<= 30s",
		strings.Replace(good, "    timeout: 3s\n", "", 1):                                     "timeout: Required",
		strings.Replace(good, "Version: v1\n", "Version: v2\n", 1):                            "subjectAccessReviewVersion: Unsupported",
		strings.Replace(good, "failurePolicy: Deny", "failurePolicy: Allow", 1):               "failurePolicy: Unsupported",
		strings.Replace(good, "KubeConfigFile,", "InClusterConfig,", 1):                       "connectionInfo.type",
		strings.Replace(good, j.kubeconfig, "relative", 1):                                    "absolute",
		strings.Replace(good, j.kubeconfig, "/no/such/file", 1):                               "kubeConfigFile",
		good + "    authorizedTTL: -1s\n":                                                     "authorizedTTL",
		good + "    matchConditions: [{expression: 'request.x'}]\n":                           "undefined field",
		good + "    matchConditions: [{expression: 'request.user'}]\n":                        "must evaluate to bool",
		good + "    matchConditions: [{expression: ''}]\n":                                    "Required",
		good + "    matchConditions: [{expression: 'true'}, {expression: 'true'}]\n":          "Duplicate",
		good + "    matchConditions: [" + strings.Repeat("{expression: 'true'},", 65) + "]\n": "must have at most 64",
		good + "    nonsense: 1\n":                                                            "nonsense",
	} {
		path := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Path: path, Types: map[string]authz.Authorizer{"RBAC": ours{}}, Now: time.Now}); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s\ngot %v, want %q", text, err, why)
		}
	}
}

func TestModes(t *testing.T) {
	for mode, want := range map[string]authz.Decision{"AlwaysAllow": authz.Allow, "AlwaysDeny": authz.NoOpinion, "RBAC": authz.NoOpinion} {
		c, err := Open(Config{Fixed: &configv1.AuthorizationConfiguration{Authorizers: []configv1.AuthorizerConfiguration{{Type: mode, Name: strings.ToLower(mode)}}},
			Types: map[string]authz.Authorizer{"RBAC": ours{}}, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if d, _, err := c.Authorize(t.Context(), get("joe")); d != want || err != nil {
			t.Errorf("%s: %v, %v", mode, d, err)
		}
		if rules, _, _, err := c.RulesFor(t.Context(), client.User{Name: "joe"}, "ns"); err != nil || (len(rules) > 0) != (mode == "AlwaysAllow") {
			t.Errorf("%s: %v, %v", mode, rules, err)
		}
	}
}

// The file is followed; what is broken, or takes RBAC away, changes nothing.
func TestReload(t *testing.T) {
	j := newJudge(t)
	c, path := open(t, head+"- {type: RBAC, name: rbac}\n")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	until := func(user string, want authz.Decision) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			if d, _, _ := c.Authorize(t.Context(), get(user)); d == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s never gets %v", user, want)
			}
		}
	}
	put(head + "- {type: RBAC, name: rbac}\n" + j.link("    failurePolicy: Deny\n"))
	until("ann", authz.Allow)
	put("nonsense")
	put(head + "- {type: AlwaysAllow, name: a}\n")
	put(head + j.link("    failurePolicy: Deny\n") + "- {type: RBAC, name: rbac}\n")
	until("eve", authz.Deny)
	until("bob", authz.Allow)
	put(head + "- {type: RBAC, name: rbac}\n")
	until("ann", authz.NoOpinion)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
