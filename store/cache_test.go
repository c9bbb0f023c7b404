package store_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/storetest"
)

// TestShared: writer, reader, list and watchers all hold the same entry.
func TestShared(t *testing.T) {
	s, _ := open(t, store.Config{})
	i := s.Kind(storetest.ConfigMaps)
	if err := i.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	w1, err := i.Watch(t.Context(), "", store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w2, err := i.Watch(t.Context(), "ns/", store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := i.Create(t.Context(), "ns/a", storetest.ConfigMap("ns", "a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := i.Get(t.Context(), "ns/a", "")
	if err != nil {
		t.Fatal(err)
	}
	l, err := i.List(t.Context(), "", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]*store.Entry{"get": got, "list": l.Entries[0], "watch 1": (<-w1.Events()).Entry, "watch 2": (<-w2.Events()).Entry} {
		if other != e {
			t.Errorf("%s gives another entry", name)
		}
	}
	encoded := 0
	encode := func() ([]byte, error) { encoded++; return []byte("{}"), nil }
	for range 3 {
		if _, err := e.Encoded(store.NewFormat("json", schema.GroupVersion{}), encode); err != nil {
			t.Fatal(err)
		}
	}
	if encoded != 1 {
		t.Errorf("encoded %d times", encoded)
	}
}

// TestLateKind registers kinds while others write to them.
func TestLateKind(t *testing.T) {
	s, srv := open(t, store.Config{})
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for round := range 10 {
		k := customKind(fmt.Sprint("things", round))
		direct := s.Direct(k)
		var wg sync.WaitGroup
		begun := make(chan struct{})
		const objects = 60
		wg.Go(func() {
			for n := range objects {
				name := fmt.Sprintf("t%02d", n)
				if _, err := direct.Create(t.Context(), "ns/"+name, custom(k, name)); err != nil {
					t.Error(err)
				}
				if n == objects/3 {
					close(begun)
				}
			}
		})
		<-begun
		i := s.Kind(k)
		w, err := i.Watch(t.Context(), "", store.WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for len(seen) < objects {
			ev := <-w.Events()
			if ev.Type != store.Added || seen[ev.Entry.Key] {
				t.Fatalf("got event %d of %v (%v)", ev.Type, ev.Entry, ev.Err)
			}
			seen[ev.Entry.Key] = true
		}
		wg.Wait()
		l, err := i.List(t.Context(), "", store.ListOptions{})
		if err != nil || len(l.Entries) != objects {
			t.Fatalf("%d objects, %v", len(l.Entries), err)
		}
		s.Forget(k)
		for range w.Events() {
			t.Error("an event after the kind was forgotten")
		}
	}
	_ = srv
}

func customKind(resource string) *api.Kind {
	return &api.Kind{
		Hub:      schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"},
		Resource: resource, Namespaced: true, Prefix: "example.com/" + resource,
		New:     func() runtime.Object { return &unstructured.Unstructured{} },
		NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
	}
}

func custom(k *api.Kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(k.Hub)
	u.SetNamespace("ns")
	u.SetName(name)
	return u
}

// breaking is a backend whose watch can be broken off.
type breaking struct {
	store.Backend
	follower store.Follower
	mu       sync.Mutex
	stop     context.CancelCauseFunc
}

func (b *breaking) Follow(ctx context.Context, after int64, do func([]*clientv3.Event)) error {
	ctx, stop := context.WithCancelCause(ctx)
	b.mu.Lock()
	b.stop = stop
	b.mu.Unlock()
	if err := b.follower.Follow(ctx, after, do); ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

func (b *breaking) breakOff() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop(errors.New("broken off"))
}

// TestBrokenWatch breaks etcd's watch: the cache resumes it and its own
// watches notice nothing.
func TestBrokenWatch(t *testing.T) {
	srv := startEtcd(t)
	b := &breaking{Backend: srv, follower: srv}
	s := openOn(t, store.Config{Backend: b})
	i := s.Kind(storetest.ConfigMaps)
	w, err := i.Watch(t.Context(), "", store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		b.breakOff()
		name := fmt.Sprint("c", n)
		e, err := s.Direct(storetest.ConfigMaps).Create(t.Context(), "ns/"+name, storetest.ConfigMap("ns", name, "1"))
		if err != nil {
			t.Fatal(err)
		}
		if ev := <-w.Events(); ev.Type != store.Added || ev.Revision != e.Revision {
			t.Fatalf("got %+v, want the creation at %d", ev, e.Revision)
		}
	}
}

// TestLostHistory breaks the watch and compacts what it missed: the cache
// reads the state anew and tells its watches.
func TestLostHistory(t *testing.T) {
	srv := startEtcd(t)
	b := &breaking{Backend: srv, follower: srv}
	s := openOn(t, store.Config{Backend: b})
	i := s.Kind(storetest.ConfigMaps)
	if _, err := i.Create(t.Context(), "ns/a", storetest.ConfigMap("ns", "a", "1")); err != nil {
		t.Fatal(err)
	}
	w, err := i.Watch(t.Context(), "", store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-w.Events()
	b.breakOff()
	direct := s.Direct(storetest.ConfigMaps)
	for n := range 20 {
		name := fmt.Sprint("c", n)
		if _, err := direct.Create(t.Context(), "ns/"+name, storetest.ConfigMap("ns", name, "1")); err != nil {
			t.Fatal(err)
		}
	}
	last, err := direct.Delete(t.Context(), "ns/a", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.Compact(t.Context(), last.Revision); err != nil {
		t.Fatal(err)
	}
	// Either the watch was quick and saw everything, or it was told.
	told := false
	for ev := range w.Events() {
		if ev.Type == store.Error {
			told = apierrors.IsResourceExpired(ev.Err)
			continue
		}
		if ev.Revision == last.Revision {
			told = true
			w.Stop()
		}
	}
	if !told {
		t.Error("the watch ended without a word")
	}
	for i.Ready(t.Context()) != nil {
	}
	l, err := i.List(t.Context(), "", store.ListOptions{})
	if err != nil || len(l.Entries) != 20 {
		t.Fatalf("%d objects, %v", len(l.Entries), err)
	}
}

// base64Transformer stands for encryption: the key is bound in.
type base64Transformer struct{}

func (base64Transformer) ToStorage(_ context.Context, plain []byte, key string) ([]byte, error) {
	return []byte(base64.StdEncoding.EncodeToString(append([]byte(key+"\n"), plain...))), nil
}

func (base64Transformer) FromStorage(_ context.Context, stored []byte, key string) ([]byte, bool, error) {
	if bytes.HasPrefix(stored, []byte("k8s\x00")) {
		return stored, true, nil // from before encryption
	}
	b, err := base64.StdEncoding.DecodeString(string(stored))
	if err != nil {
		return nil, false, err
	}
	plain, ok := bytes.CutPrefix(b, []byte(key+"\n"))
	if !ok {
		return nil, false, errors.New("the value belongs to another key")
	}
	return plain, false, nil
}

func TestTransformer(t *testing.T) {
	s, srv := open(t, store.Config{Transformer: func(gr schema.GroupResource) store.Transformer {
		if gr.Resource == "configmaps" {
			return base64Transformer{}
		}
		return nil
	}})
	for name, i := range map[string]store.Interface{"cached": s.Kind(storetest.ConfigMaps), "direct": s.Direct(storetest.ConfigMaps)} {
		if err := i.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		key, full := "ns/"+name, "/registry/configmaps/ns/"+name
		if _, err := i.Create(t.Context(), key, storetest.ConfigMap("ns", name, "secret")); err != nil {
			t.Fatal(err)
		}
		raw := value(t, srv, full)
		if strings.Contains(raw, "secret") || strings.HasPrefix(raw, "k8s") {
			t.Errorf("%s lies bare: %q", name, raw)
		}
		e, err := i.Get(t.Context(), key, "")
		if err != nil || e.Object.(*corev1.ConfigMap).Data["value"] != "secret" {
			t.Fatalf("got %v, %v", e, err)
		}

		// A value that is not transformed yet is, by a write that changes
		// nothing else.
		plain, err := store.EncodeProtobuf(storetest.ConfigMap("ns", name, "old"), storetest.ConfigMaps.Hub)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := srv.Put(t.Context(), full, string(plain)); err != nil {
			t.Fatal(err)
		}
		same := func(cur *store.Entry) (runtime.Object, error) { return cur.Object, nil }
		if _, err := i.Get(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		if e, err = i.Update(t.Context(), key, false, same); err != nil || e.Object.(*corev1.ConfigMap).Data["value"] != "old" {
			t.Fatalf("got %v, %v", e, err)
		}
		if strings.HasPrefix(value(t, srv, full), "k8s") {
			t.Errorf("%s is still bare", name)
		}

		// A value moved to another key is refused.
		if _, err := srv.Put(t.Context(), full+"-moved", value(t, srv, full)); err != nil {
			t.Fatal(err)
		}
		if e, err := s.Direct(storetest.ConfigMaps).Get(t.Context(), key+"-moved", ""); err == nil {
			t.Errorf("read %v from a key that it was not written to", e)
		}
		if _, err := srv.Delete(t.Context(), full+"-moved"); err != nil {
			t.Fatal(err)
		}
	}
}

// keyed stands for encryption with keys that come and go.
type keyed struct {
	mu   sync.Mutex
	keys []string // the first one writes
}

func (k *keyed) set(keys ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = keys
}

func (k *keyed) ToStorage(_ context.Context, plain []byte, _ string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]byte(k.keys[0]+":"), plain...), nil
}

func (k *keyed) FromStorage(_ context.Context, stored []byte, _ string) ([]byte, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, key := range k.keys {
		if plain, ok := bytes.CutPrefix(stored, []byte(key+":")); ok {
			return plain, i > 0, nil
		}
	}
	return nil, false, errors.New("no such key")
}

// TestKeysChange: a write that changes nothing brings a value under the newest
// key, whatever the cache remembers; a key that is missing is an error, never
// an absent object, and the cache heals once it is there.
func TestKeysChange(t *testing.T) {
	tf := &keyed{keys: []string{"one"}}
	srv := startEtcd(t)
	cfg := store.Config{Backend: srv, Transformer: func(schema.GroupResource) store.Transformer { return tf }}
	s, err := store.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	i := s.Kind(storetest.ConfigMaps)
	if err := i.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Create(t.Context(), "ns/a", storetest.ConfigMap("ns", "a", "x")); err != nil {
		t.Fatal(err)
	}
	same := func(cur *store.Entry) (runtime.Object, error) { return cur.Object, nil }
	e, err := i.Update(t.Context(), "ns/a", false, same)
	if err != nil {
		t.Fatal(err)
	}
	tf.set("two", "one")
	again, err := i.Update(t.Context(), "ns/a", false, same)
	if err != nil || again.Revision == e.Revision || !strings.HasPrefix(value(t, srv, "/registry/configmaps/ns/a"), "two:") {
		t.Fatalf("not under the new key: %v, %v", again, err)
	}
	if settled, err := i.Update(t.Context(), "ns/a", false, same); err != nil || settled.Revision != again.Revision {
		t.Fatalf("written once more: %v, %v", settled, err)
	}

	// Another server writes with a key that is not here yet.
	if _, err := srv.Put(t.Context(), "/registry/configmaps/ns/a", "three:?"); err != nil {
		t.Fatal(err)
	}
	if l, err := i.List(t.Context(), "", store.ListOptions{}); err == nil {
		t.Fatalf("a list without a word of what is missing: %v", l.Entries)
	}
	// A server that starts without the key must not take the object for absent.
	s2, err := store.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	ready, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s2.Kind(storetest.ConfigMaps).Ready(ready); err == nil {
		t.Fatal("ready without the key")
	}
	if e, err := s2.Kind(storetest.ConfigMaps).Get(t.Context(), "ns/a", ""); err == nil || apierrors.IsNotFound(err) {
		t.Fatalf("got %v, %v", e, err)
	}

	plain, err := store.EncodeProtobuf(storetest.ConfigMap("ns", "a", "back"), storetest.ConfigMaps.Hub)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.Put(t.Context(), "/registry/configmaps/ns/a", "three:"+string(plain)); err != nil {
		t.Fatal(err)
	}
	tf.set("two", "one", "three")
	for _, k := range []store.Interface{i, s2.Kind(storetest.ConfigMaps)} {
		if err := k.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		e, err := k.Get(t.Context(), "ns/a", "")
		if err != nil || e.Object.(*corev1.ConfigMap).Data["value"] != "back" {
			t.Fatalf("got %v, %v", e, err)
		}
	}
}

func value(t *testing.T, etcd clientv3.KV, key string) string {
	t.Helper()
	resp, err := etcd.Get(t.Context(), key)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%s: %v, %v", key, resp, err)
	}
	return string(resp.Kvs[0].Value)
}

// TestMutationDetected changes what is shared.
func TestMutationDetected(t *testing.T) {
	var found []string
	srv := startEtcd(t)
	s, err := store.New(store.Config{Backend: srv, Mutated: func(text string) { found = append(found, text) }})
	if err != nil {
		t.Fatal(err)
	}
	i := s.Kind(storetest.ConfigMaps)
	if err := i.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, err := i.Create(t.Context(), "ns/a", storetest.ConfigMap("ns", "a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Get(t.Context(), "ns/a", ""); err != nil {
		t.Fatal(err)
	}
	s.CheckMutations()
	if len(found) != 0 {
		t.Fatalf("found %v", found)
	}
	e.Object.(*corev1.ConfigMap).Data["value"] = "2"
	s.CheckMutations()
	if len(found) != 1 || !strings.Contains(found[0], "ns/a") {
		t.Errorf("found %v", found)
	}
	s.Close()
	if len(found) != 1 {
		t.Errorf("found twice: %v", found)
	}
}
