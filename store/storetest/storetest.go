// Package storetest holds every implementation of store.Interface against
// the contract in package store. Run is called by the tests of each with a
// function that opens it.
package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
)

// Options are what a test wants of the store it opens.
type Options struct {
	// History bounds what watches can resume from without etcd.
	History store.History
	// BookmarkEvery is the time between bookmarks.
	BookmarkEvery time.Duration
}

// Fixture is an open store with the kinds of Table.
type Fixture struct {
	// Kind gives access through the implementation under test.
	Kind func(*api.Kind) store.Interface
	// Backend is the etcd below.
	Backend store.Backend
}

// Opener opens an empty store that ends with the test.
type Opener func(t *testing.T, o Options) *Fixture

// Kinds of the suite.
var (
	ConfigMaps = &api.Kind{
		Hub: corev1.SchemeGroupVersion.WithKind("ConfigMap"), HubListKind: "ConfigMapList",
		Resource: "configmaps", Singular: "configmap", Namespaced: true, Prefix: "configmaps",
		New: api.New[corev1.ConfigMap](), NewList: api.New[corev1.ConfigMapList](),
		Views: []api.View{{GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ConfigMap")}},
	}
	Pods = &api.Kind{
		Hub: corev1.SchemeGroupVersion.WithKind("Pod"), HubListKind: "PodList",
		Resource: "pods", Singular: "pod", Namespaced: true, Prefix: "pods",
		New: api.New[corev1.Pod](), NewList: api.New[corev1.PodList](),
		Views:      []api.View{{GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Pod")}},
		FieldNames: []string{"spec.nodeName"},
		Fields: api.Fields(func(p *corev1.Pod) fields.Set {
			return fields.Set{"spec.nodeName": p.Spec.NodeName}
		}),
		Strategy: api.Strategy{Default: api.On(func(p *corev1.Pod) {
			if p.Spec.RestartPolicy == "" {
				p.Spec.RestartPolicy = corev1.RestartPolicyAlways
			}
		})},
	}
	Nodes = &api.Kind{
		Hub: corev1.SchemeGroupVersion.WithKind("Node"), HubListKind: "NodeList",
		Resource: "nodes", Singular: "node", Prefix: "minions",
		New: api.New[corev1.Node](), NewList: api.New[corev1.NodeList](),
		Views: []api.View{{GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Node")}},
	}
	Services = &api.Kind{
		Hub: corev1.SchemeGroupVersion.WithKind("Service"), HubListKind: "ServiceList",
		Resource: "services", Singular: "service", Namespaced: true, Prefix: "services/specs",
		New: api.New[corev1.Service](), NewList: api.New[corev1.ServiceList](),
		Views: []api.View{{GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Service")}},
	}
	Events = &api.Kind{
		Hub: corev1.SchemeGroupVersion.WithKind("Event"), HubListKind: "EventList",
		Resource: "events", Singular: "event", Namespaced: true, Prefix: "events", TTL: 3600,
		New: api.New[corev1.Event](), NewList: api.New[corev1.EventList](),
		Views: []api.View{{GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Event")}},
	}
	Leases = &api.Kind{
		Hub: coordinationv1.SchemeGroupVersion.WithKind("Lease"), HubListKind: "LeaseList",
		Resource: "leases", Singular: "lease", Namespaced: true, Prefix: "leases",
		New: api.New[coordinationv1.Lease](), NewList: api.New[coordinationv1.LeaseList](),
		Views: []api.View{{GroupVersionKind: coordinationv1.SchemeGroupVersion.WithKind("Lease")}},
	}
)

// Table holds the suite's kinds. It is one for all tests, as building it
// completes the rows.
var Table = sync.OnceValues(func() (*api.Table, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, coordinationv1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return api.NewTable(s, []*api.Kind{ConfigMaps, Pods, Nodes, Services, Events, Leases})
})

// Run runs the whole suite.
func Run(t *testing.T, open Opener) {
	for _, tc := range []struct {
		name string
		run  func(*testing.T, Opener)
	}{
		{"Create", testCreate},
		{"Tenure", testTenure},
		{"Fence", testFence},
		{"Get", testGet},
		{"Update", testUpdate},
		{"UpdateUnchanged", testUpdateUnchanged},
		{"UpdateRetries", testUpdateRetries},
		{"UpdateDeletes", testUpdateDeletes},
		{"Delete", testDelete},
		{"DefaultsOnRead", testDefaultsOnRead},
		{"TTL", testTTL},
		{"List", testList},
		{"ListSelectors", testListSelectors},
		{"ListRevisions", testListRevisions},
		{"ListPages", testListPages},
		{"ListPagesSelected", testListPagesSelected},
		{"ListPagesCompacted", testListPagesCompacted},
		{"ContinueInvalid", testContinueInvalid},
		{"WatchFromNow", testWatchFromNow},
		{"WatchResume", testWatchResume},
		{"WatchExpired", testWatchExpired},
		{"WatchSelectors", testWatchSelectors},
		{"WatchNamespace", testWatchNamespace},
		{"WatchInitialEvents", testWatchInitialEvents},
		{"WatchBookmarks", testWatchBookmarks},
		{"WatchEnds", testWatchEnds},
		{"WatchSlow", testWatchSlow},
		{"Writers", testWriters},
		{"ReadYourWrites", testReadYourWrites},
		{"Counters", testCounters},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.run(t, open)
		})
	}
}

// ConfigMap makes an object whose data and label are value.
func ConfigMap(ns, name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": value}},
		Data:       map[string]string{"value": value},
	}
}

// Pod makes a pod on a node ("" for none).
func Pod(ns, name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{NodeName: node}}
}

func create(t *testing.T, i store.Interface, obj api.Object) *store.Entry {
	t.Helper()
	e, err := i.Create(t.Context(), keyOf(obj), obj)
	if err != nil {
		t.Fatalf("create %s: %v", keyOf(obj), err)
	}
	return e
}

func keyOf(obj api.Object) string {
	if ns := obj.GetNamespace(); ns != "" {
		return ns + "/" + obj.GetName()
	}
	return obj.GetName()
}

// set stores a new value in a config map.
func set(t *testing.T, i store.Interface, key, value string) *store.Entry {
	t.Helper()
	e, err := i.Update(t.Context(), key, false, func(cur *store.Entry) (runtime.Object, error) {
		cm := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
		cm.Data = map[string]string{"value": value}
		cm.Labels = map[string]string{"app": value}
		return cm, nil
	})
	if err != nil {
		t.Fatalf("update %s: %v", key, err)
	}
	return e
}

func remove(t *testing.T, i store.Interface, key string) *store.Entry {
	t.Helper()
	e, err := i.Delete(t.Context(), key, nil, nil)
	if err != nil {
		t.Fatalf("delete %s: %v", key, err)
	}
	return e
}

func list(t *testing.T, i store.Interface, prefix string, o store.ListOptions) *store.List {
	t.Helper()
	l, err := i.List(t.Context(), prefix, o)
	if err != nil {
		t.Fatalf("list %q %+v: %v", prefix, o, err)
	}
	return l
}

func keys(l *store.List) []string {
	out := []string{}
	for _, e := range l.Entries {
		out = append(out, e.Key)
	}
	return out
}

func values(l *store.List) []string {
	out := []string{}
	for _, e := range l.Entries {
		out = append(out, e.Key+"="+e.Object.(*corev1.ConfigMap).Data["value"])
	}
	return out
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

// checkRevision holds an entry's object against its revision.
func checkRevision(t *testing.T, e *store.Entry) {
	t.Helper()
	if got := e.Object.(api.Object).GetResourceVersion(); got != RV(e.Revision) {
		t.Errorf("%s: object has resourceVersion %s in an entry of revision %d", e.Key, got, e.Revision)
	}
}

// reason asserts the reason of a status error.
func reason(t *testing.T, err error, want metav1.StatusReason) {
	t.Helper()
	if got := apierrors.ReasonForError(err); got != want || err == nil {
		t.Errorf("got error %v (%q), want reason %q", err, got, want)
	}
}

func watch(t *testing.T, i store.Interface, prefix string, o store.WatchOptions) store.Watcher {
	t.Helper()
	w, err := i.Watch(t.Context(), prefix, o)
	if err != nil {
		t.Fatalf("watch %q %+v: %v", prefix, o, err)
	}
	t.Cleanup(w.Stop)
	return w
}

// next returns a watch's next event; it fails after far more time than any
// event can need.
func next(t *testing.T, w store.Watcher) store.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	select {
	case ev, ok := <-w.Events():
		if !ok {
			t.Fatal("the watch has ended")
		}
		return ev
	case <-ctx.Done():
		t.Fatal("no event came")
		panic("unreachable")
	}
}

// expect asserts a watch's next event.
func expect(t *testing.T, w store.Watcher, typ store.EventType, key string, revision int64) store.Event {
	t.Helper()
	ev := next(t, w)
	if ev.Type != typ || ev.Revision != revision || ev.Entry == nil || ev.Entry.Key != key {
		k := ""
		if ev.Entry != nil {
			k = ev.Entry.Key
		}
		t.Fatalf("got event type %d key %q revision %d (%v), want type %d key %q revision %d", ev.Type, k, ev.Revision, ev.Err, typ, key, revision)
	}
	checkRevision(t, ev.Entry)
	return ev
}

func byLabel(t *testing.T, s string) store.Predicate {
	t.Helper()
	sel, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return store.Predicate{Label: sel}
}

func byField(t *testing.T, s string) store.Predicate {
	t.Helper()
	sel, err := fields.ParseSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return store.Predicate{Field: sel}
}
