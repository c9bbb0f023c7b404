package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/audit"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/storetest"
)

// The table of these tests: a few kinds that show every shape of a row.
func testTable(t testing.TB) *api.Table {
	t.Helper()
	core := func(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }
	kinds := []*api.Kind{
		{
			Hub: core("ConfigMap"), HubListKind: "ConfigMapList", Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"},
			Namespaced: true, Prefix: "configmaps", New: api.New[corev1.ConfigMap](), NewList: api.New[corev1.ConfigMapList](),
			Views: api.Serve(core("ConfigMap")),
			Strategy: api.Strategy{Validate: api.Check(func(c *corev1.ConfigMap) field.ErrorList {
				if c.Data["invalid"] != "" {
					return field.ErrorList{field.Invalid(field.NewPath("data").Key("invalid"), c.Data["invalid"], "is not wanted")}
				}
				return nil
			}), AllowCreateOnUpdate: false},
		},
		{
			Hub: core("Namespace"), HubListKind: "NamespaceList", Resource: "namespaces", Singular: "namespace", Prefix: "namespaces",
			New: api.New[corev1.Namespace](), NewList: api.New[corev1.NamespaceList](), Views: api.Serve(core("Namespace")),
			Strategy: api.Strategy{
				PrepareCreate: api.On(func(n *corev1.Namespace) { n.Spec.Finalizers = []corev1.FinalizerName{"kubernetes"} }),
				PrepareUpdate: api.On2(func(n, old *corev1.Namespace) { n.Spec.Finalizers = old.Spec.Finalizers }),
				PrepareDelete: api.On(func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating }),
				Keep:          func(o runtime.Object) bool { return len(o.(*corev1.Namespace).Spec.Finalizers) > 0 },
			},
			Subresources: map[string]api.Subresource{"finalize": {Verbs: []string{"update"}, Object: &api.Strategy{}}},
		},
		podKind(core("Pod")),
		deploymentKind(),
		{
			Hub: core("Event"), HubListKind: "EventList", Resource: "events", Singular: "event", Namespaced: true, Prefix: "events", TTL: 3600,
			New: api.New[corev1.Event](), NewList: api.New[corev1.EventList](),
			Views: []api.View{{GroupVersionKind: core("Event")}, {
				GroupVersionKind: eventsv1.SchemeGroupVersion.WithKind("Event"), New: api.New[eventsv1.Event](), NewList: api.New[eventsv1.EventList](),
				ToHub: func(in runtime.Object) (runtime.Object, error) {
					e := in.(*eventsv1.Event)
					return &corev1.Event{ObjectMeta: e.ObjectMeta, Message: e.Note, Reason: e.Reason}, nil
				},
				FromHub: func(in runtime.Object) (runtime.Object, error) {
					e := in.(*corev1.Event)
					return &eventsv1.Event{ObjectMeta: e.ObjectMeta, Note: e.Message, Reason: e.Reason}, nil
				},
			}},
		},
	}
	tab, err := api.NewTable(scheme.Scheme, kinds)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func podKind(gvk schema.GroupVersionKind) *api.Kind {
	return &api.Kind{
		Hub: gvk, HubListKind: "PodList", Resource: "pods", Singular: "pod", Namespaced: true, Prefix: "pods", ReturnDeleted: true,
		New: api.New[corev1.Pod](), NewList: api.New[corev1.PodList](), Views: api.Serve(gvk),
		Columns: []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name"}, {Name: "Node", Type: "string"}},
		Cells:   api.Cells(func(p *corev1.Pod) []any { return []any{p.Name, p.Spec.NodeName} }),
		Fields:  api.Fields(func(p *corev1.Pod) fields.Set { return fields.Set{"spec.nodeName": p.Spec.NodeName} }), FieldNames: []string{"spec.nodeName"},
		Strategy: api.Strategy{
			Default: api.On(func(p *corev1.Pod) {
				if p.Spec.RestartPolicy == "" {
					p.Spec.RestartPolicy = corev1.RestartPolicyAlways
				}
			}),
			GracePeriod: func(o runtime.Object, asked *int64) int64 {
				if asked != nil {
					return *asked
				}
				return 30
			},
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: api.On2(func(p, old *corev1.Pod) { p.Spec = old.Spec })}},
			"binding": {Action: &api.Action{
				GVK: corev1.SchemeGroupVersion.WithKind("Binding"), New: api.New[corev1.Binding](),
				Result: schema.GroupVersionKind{Version: "v1", Kind: "Status"},
			}},
			"exec": {Connect: &api.Connect{Options: corev1.SchemeGroupVersion.WithKind("PodExecOptions"), Methods: []string{"GET", "POST"}}},
			"log":  {Connect: &api.Connect{Options: corev1.SchemeGroupVersion.WithKind("PodLogOptions"), Methods: []string{"GET"}}},
		},
	}
}

func deploymentKind() *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("Deployment")
	return &api.Kind{
		Hub: gvk, HubListKind: "DeploymentList", Resource: "deployments", Singular: "deployment", ShortNames: []string{"deploy"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "deployments", New: api.New[appsv1.Deployment](), NewList: api.New[appsv1.DeploymentList](), Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: api.On(func(d *appsv1.Deployment) { d.Status, d.Generation = appsv1.DeploymentStatus{}, 1 }),
			PrepareUpdate: api.On2(func(d, old *appsv1.Deployment) {
				d.Status = old.Status
				api.CountGeneration(d, old, d.Spec, old.Spec)
			}),
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: api.On2(func(d, old *appsv1.Deployment) { d.Spec, d.Labels = old.Spec, old.Labels })}},
			"scale": {Project: &api.Projection{
				GVK: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), New: api.New[autoscalingv1.Scale](),
				Get: func(o runtime.Object) (runtime.Object, error) {
					d := o.(*appsv1.Deployment)
					s := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: d.Name, Namespace: d.Namespace, UID: d.UID, ResourceVersion: d.ResourceVersion, CreationTimestamp: d.CreationTimestamp}}
					if d.Spec.Replicas != nil {
						s.Spec.Replicas = *d.Spec.Replicas
					}
					return s, nil
				},
				Validate: func(o runtime.Object) field.ErrorList {
					if n := o.(*autoscalingv1.Scale).Spec.Replicas; n < 0 {
						return field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), n, "must be greater than or equal to 0")}
					}
					return nil
				},
				Set: func(o, in runtime.Object) error {
					n := in.(*autoscalingv1.Scale).Spec.Replicas
					o.(*appsv1.Deployment).Spec.Replicas = &n
					return nil
				},
			}},
		},
	}
}

// world is a server on a real store with both doors.
type world struct {
	t      testing.TB
	srv    *apiserver.Server
	ts     *httptest.Server
	local  client.Interface
	remote client.Interface
	store  *store.Store
	events *recorder
}

// recorder keeps audit events.
type recorder struct {
	mu   sync.Mutex
	evs  []*auditv1.Event
	full bool
}

func (r *recorder) Write(ev *auditv1.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full {
		return errors.New("full")
	}
	r.evs = append(r.evs, ev)
	return nil
}

// fail makes later writes fail or succeed.
func (r *recorder) fail(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full = yes
}

// last is the newest event, nil without any.
func (r *recorder) last() *auditv1.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.evs) == 0 {
		return nil
	}
	return r.evs[len(r.evs)-1]
}

// take returns what was recorded since the last take, as lines without what
// differs between runs.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.evs {
		path, _, _ := strings.Cut(e.RequestURI, "?")
		line := fmt.Sprintf("%s %s %s %s by %s", e.Stage, e.Level, e.Verb, path, e.User.Username)
		if e.ObjectRef != nil {
			line += fmt.Sprintf(" on %s/%s/%s/%s/%s", e.ObjectRef.APIGroup, e.ObjectRef.Resource, e.ObjectRef.Namespace, e.ObjectRef.Name, e.ObjectRef.Subresource)
		}
		if e.ResponseStatus != nil {
			line += fmt.Sprintf(" = %d %s", e.ResponseStatus.Code, e.ResponseStatus.Reason)
		}
		out = append(out, line)
	}
	r.evs = nil
	return out
}

var tester = client.User{Name: "tester", Groups: []string{"system:authenticated"}}

// rules allows everything but what a test user's name forbids.
type rules struct{}

func (rules) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	switch {
	case a.User.Name == "nobody":
		return authz.NoOpinion, "", nil
	case a.Namespace == "forbidden":
		return authz.NoOpinion, "no rights here", nil
	}
	return authz.Allow, "", nil
}

// veto refuses objects that carry the label veto.
type veto struct{}

func (veto) Name() string                        { return "Veto" }
func (veto) Handles(op admission.Operation) bool { return true }
func (veto) Admit(_ context.Context, a *admission.Attributes) error {
	if m, ok := a.Object.(metav1.Object); ok && m.GetLabels()["mutate"] != "" {
		l := m.GetLabels()
		l["mutated"] = "yes"
		m.SetLabels(l)
	}
	return nil
}
func (veto) Validate(_ context.Context, a *admission.Attributes) error {
	if m, ok := a.Object.(metav1.Object); ok && m.GetLabels()["veto"] != "" {
		return fmt.Errorf("vetoed")
	}
	if m, ok := a.Object.(metav1.Object); ok && m.GetLabels()["warn"] != "" {
		a.Warn("a warning")
	}
	return nil
}

func newWorld(t testing.TB, change ...func(*apiserver.Config)) *world {
	t.Helper()
	tab := testTable(t)
	st, _ := storetest.Start(t, tab)
	w := &world{t: t, store: st, events: &recorder{}}
	policy, err := audit.ParsePolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := apiserver.Config{
		Table: tab, Store: st.Kind, Authz: rules{}, Admission: []admission.Plugin{veto{}},
		Authn: authn.Func(func(r *http.Request) (client.User, bool, error) {
			u := tester
			if name := r.Header.Get("X-Test-User"); name != "" {
				u.Name = name
			}
			return u, r.Header.Get("Authorization") != "Bearer wrong", nil
		}),
		Audit:   audit.New(policy, w.events, time.Now, nil),
		Version: version.Info{Major: "1", Minor: "36", GitVersion: "v1.36.2+cox"},
	}
	for _, f := range change {
		f(&cfg)
	}
	if w.srv, err = apiserver.New(cfg); err != nil {
		t.Fatal(err)
	}
	w.ts = httptest.NewServer(w.srv)
	t.Cleanup(w.ts.Close)
	w.local = client.As(w.srv.Door(), tester)
	w.remote, err = client.Remote(&rest.Config{Host: w.ts.URL, UserAgent: "cox/test"})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// http sends one request and returns its answer and body.
func (w *world) http(method, path, body string, header ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequest(method, w.ts.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(b)
}

func configMap(ns, name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Data: data}
}
