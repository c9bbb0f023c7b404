package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/internal/tenure"
	"github.com/coxswain/cox/store"
)

// testTenure has a leader write, whose lease runs out while its requests are on
// their way.
func testTenure(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	n := &tenure.Tenure{Length: time.Minute}
	ctx := tenure.With(t.Context(), n)
	n.Renewed(time.Now())
	if _, err := i.Create(ctx, "ns/a", ConfigMap("ns", "a", "1")); err != nil {
		t.Fatal(err)
	}
	over := func() { n.Renewed(time.Now().Add(-2 * time.Minute)) }
	_, err := i.Update(ctx, "ns/a", false, func(cur *store.Entry) (runtime.Object, error) {
		over()
		return ConfigMap("ns", "a", "2"), nil
	})
	refused := func(what string, err error) {
		if err == nil || !strings.Contains(err.Error(), tenure.ErrOver.Error()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("updated", err)
	_, err = i.Create(ctx, "ns/b", ConfigMap("ns", "b", "1"))
	refused("created", err)
	n.Renewed(time.Now())
	_, err = i.Delete(ctx, "ns/a", nil, func(*store.Entry) error { over(); return nil })
	refused("deleted", err)
	equal(t, "values", values(list(t, i, "", store.ListOptions{})), []string{"ns/a=1"})
	if _, err := i.Create(t.Context(), "ns/b", ConfigMap("ns", "b", "1")); err != nil {
		t.Errorf("another's write afterwards: %v", err)
	}
}

func testCreate(t *testing.T, open Opener) {
	f := open(t, Options{})
	i := f.Kind(ConfigMaps)
	e := create(t, i, ConfigMap("ns", "a", "1"))
	checkRevision(t, e)
	if e.Key != "ns/a" || e.Revision == 0 {
		t.Errorf("got entry %q at %d", e.Key, e.Revision)
	}
	_, err := i.Create(t.Context(), "ns/a", ConfigMap("ns", "a", "2"))
	reason(t, err, metav1.StatusReasonAlreadyExists)
	if err.Error() != `configmaps "a" already exists` {
		t.Errorf("got %q", err)
	}
	equal(t, "value after a refused create", values(list(t, i, "", store.ListOptions{})), []string{"ns/a=1"})

	with := ConfigMap("ns", "b", "1")
	with.ResourceVersion = "5"
	_, err = i.Create(t.Context(), "ns/b", with)
	reason(t, err, metav1.StatusReasonBadRequest)

	nodes := f.Kind(Nodes)
	n := create(t, nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	if n.Revision <= e.Revision {
		t.Errorf("revision went from %d to %d", e.Revision, n.Revision)
	}
	list(t, nodes, "", store.ListOptions{}) // counting waits for nothing
	equal(t, "count", nodes.Count(), 1)
}

func testGet(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	_, err := i.Get(t.Context(), "ns/a", "")
	reason(t, err, metav1.StatusReasonNotFound)
	if err.Error() != `configmaps "a" not found` {
		t.Errorf("got %q", err)
	}
	e1 := create(t, i, ConfigMap("ns", "a", "1"))
	e2 := set(t, i, "ns/a", "2")
	for _, at := range []string{"", RV(e1.Revision), RV(e2.Revision)} {
		got, err := i.Get(t.Context(), "ns/a", at)
		if err != nil {
			t.Fatalf("get at %q: %v", at, err)
		}
		if at != RV(e1.Revision) { // any state since the first will do there
			equal(t, "revision", got.Revision, e2.Revision)
		}
		checkRevision(t, got)
	}
	if _, err := i.Get(t.Context(), "ns/a", "0"); err != nil {
		t.Errorf("get at 0: %v", err)
	}
	_, err = i.Get(t.Context(), "ns/a", "x")
	noRevision(t, err)
	_, err = i.Get(t.Context(), "ns/a", RV(e2.Revision+1000))
	tooLarge(t, err)
	_, err = i.Get(t.Context(), "ns", "")
	reason(t, err, metav1.StatusReasonNotFound)
}

func testUpdate(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	put := func(cur *store.Entry) (runtime.Object, error) {
		if cur != nil {
			return nil, errors.New("it is there")
		}
		return ConfigMap("ns", "a", "1"), nil
	}
	_, err := i.Update(t.Context(), "ns/a", false, put)
	reason(t, err, metav1.StatusReasonNotFound)
	e1, err := i.Update(t.Context(), "ns/a", true, put)
	if err != nil {
		t.Fatal(err)
	}
	checkRevision(t, e1)
	if _, err = i.Update(t.Context(), "ns/a", true, put); err == nil || err.Error() != "it is there" {
		t.Errorf("got %v, want the function's own error", err)
	}
	e2 := set(t, i, "ns/a", "2")
	if e2.Revision <= e1.Revision {
		t.Errorf("revision went from %d to %d", e1.Revision, e2.Revision)
	}
	checkRevision(t, e2)
	got, err := i.Get(t.Context(), "ns/a", "")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "value", got.Object.(*corev1.ConfigMap).Data["value"], "2")
	equal(t, "old entry", e1.Object.(*corev1.ConfigMap).Data["value"], "1")
}

func testUpdateUnchanged(t *testing.T, open Opener) {
	f := open(t, Options{})
	i := f.Kind(ConfigMaps)
	e1 := create(t, i, ConfigMap("ns", "a", "1"))
	for name, same := range map[string]func(*store.Entry) (runtime.Object, error){
		"same object": func(cur *store.Entry) (runtime.Object, error) { return cur.Object, nil },
		"equal copy":  func(cur *store.Entry) (runtime.Object, error) { return cur.Object.DeepCopyObject(), nil },
	} {
		e2, err := i.Update(t.Context(), "ns/a", false, same)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		equal(t, name, e2.Revision, e1.Revision)
		checkRevision(t, e2)
	}
	now, err := f.Backend.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "etcd's revision", now, e1.Revision)
}

// testUpdateRetries lets another write come between each first look and its
// write.
func testUpdateRetries(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	create(t, i, ConfigMap("ns", "a", "1"))
	tries := 0
	e, err := i.Update(t.Context(), "ns/a", false, func(cur *store.Entry) (runtime.Object, error) {
		if tries++; tries <= 3 {
			set(t, i, "ns/a", fmt.Sprint("other", tries))
		}
		cm := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
		cm.Data["mine"] = "x"
		return cm, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "data", e.Object.(*corev1.ConfigMap).Data, map[string]string{"value": "other3", "mine": "x"})
	equal(t, "tries", tries, 4)

	// The object vanishes.
	tries = 0
	_, err = i.Update(t.Context(), "ns/a", false, func(cur *store.Entry) (runtime.Object, error) {
		if tries++; tries == 1 {
			remove(t, i, "ns/a")
		}
		cm := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
		cm.Data["mine"] = "y"
		return cm, nil
	})
	reason(t, err, metav1.StatusReasonNotFound)
}

func testUpdateDeletes(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	e1 := create(t, i, ConfigMap("ns", "a", "1"))
	w := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(e1.Revision)})
	e, err := i.Update(t.Context(), "ns/a", false, func(*store.Entry) (runtime.Object, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	checkRevision(t, e)
	equal(t, "last state", e.Object.(*corev1.ConfigMap).Data["value"], "1")
	expect(t, w, store.Deleted, "ns/a", e.Revision)
	_, err = i.Get(t.Context(), "ns/a", "")
	reason(t, err, metav1.StatusReasonNotFound)
}

func testDelete(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	_, err := i.Delete(t.Context(), "ns/a", nil, nil)
	reason(t, err, metav1.StatusReasonNotFound)

	cm := ConfigMap("ns", "a", "1")
	cm.UID = "u1"
	e1 := create(t, i, cm)
	other, stale := types.UID("u2"), "1"
	for name, pre := range map[string]*store.Preconditions{
		"uid":     {UID: &other},
		"version": {ResourceVersion: &stale},
	} {
		if _, err = i.Delete(t.Context(), "ns/a", pre, nil); err == nil {
			t.Fatalf("%s: deleted against its precondition", name)
		}
		reason(t, err, metav1.StatusReasonConflict)
	}
	_, err = i.Delete(t.Context(), "ns/a", nil, func(cur *store.Entry) error {
		if cur.Revision != e1.Revision {
			t.Errorf("check got revision %d", cur.Revision)
		}
		return errors.New("no")
	})
	if err == nil || err.Error() != "no" {
		t.Errorf("got %v, want the check's own error", err)
	}

	uid, at := types.UID("u1"), RV(e1.Revision)
	e2, err := i.Delete(t.Context(), "ns/a", &store.Preconditions{UID: &uid, ResourceVersion: &at}, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkRevision(t, e2)
	if e2.Revision <= e1.Revision {
		t.Errorf("deleted at %d, created at %d", e2.Revision, e1.Revision)
	}
	checkRevision(t, e1)
	equal(t, "list", len(list(t, i, "", store.ListOptions{}).Entries), 0)
}

// testDefaultsOnRead reads an object that was stored before a default was
// invented.
func testDefaultsOnRead(t *testing.T, open Opener) {
	f := open(t, Options{})
	i := f.Kind(Pods)
	data, err := store.EncodeProtobuf(Pod("ns", "old", ""), Pods.Hub)
	if err != nil {
		t.Fatal(err)
	}
	put, err := f.Backend.Put(t.Context(), "/registry/pods/ns/old", string(data))
	if err != nil {
		t.Fatal(err)
	}
	e, err := i.Get(t.Context(), "ns/old", RV(put.Header.Revision))
	if err != nil {
		t.Fatal(err)
	}
	checkRevision(t, e)
	equal(t, "restart policy", e.Object.(*corev1.Pod).Spec.RestartPolicy, corev1.RestartPolicyAlways)
}

func testTTL(t *testing.T, open Opener) {
	f := open(t, Options{})
	i := f.Kind(Events)
	leases := map[int64]bool{}
	for n := range 3 {
		e := create(t, i, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("e", n)}})
		resp, err := f.Backend.Get(t.Context(), "/registry/events/"+e.Key)
		if err != nil {
			t.Fatal(err)
		}
		leases[resp.Kvs[0].Lease] = true
		ttl, err := f.Backend.TimeToLive(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease))
		if err != nil {
			t.Fatal(err)
		}
		if ttl.GrantedTTL < 3600 || ttl.GrantedTTL > 3600+180 {
			t.Errorf("granted %d s", ttl.GrantedTTL)
		}
	}
	if len(leases) != 1 || leases[0] {
		t.Errorf("leases %v, want one for all", leases)
	}
	// What the lease takes with it is seen as deleted.
	w := watch(t, i, "", store.WatchOptions{})
	for range 3 {
		if ev := next(t, w); ev.Type != store.Added {
			t.Fatalf("got event %d", ev.Type)
		}
	}
	for id := range leases {
		if _, err := f.Backend.Revoke(t.Context(), clientv3.LeaseID(id)); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for range 3 {
		ev := next(t, w)
		if ev.Type != store.Deleted {
			t.Fatalf("got event %d", ev.Type)
		}
		seen[ev.Entry.Key] = true
	}
	equal(t, "deleted", len(seen), 3)
}

// testWriters has many writers count up one object; nothing may get lost.
func testWriters(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	first := create(t, i, ConfigMap("ns", "a", ""))
	w := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(first.Revision)})
	const writers, rounds = 8, 25
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for range rounds {
				_, err := i.Update(t.Context(), "ns/a", false, func(cur *store.Entry) (runtime.Object, error) {
					cm := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
					cm.Data["value"] += string(rune('a' + n))
					return cm, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := first.Revision
	length := 0
	for range writers * rounds {
		ev := next(t, w)
		if ev.Revision <= last {
			t.Errorf("revision %d after %d", ev.Revision, last)
		}
		last = ev.Revision
		value := ev.Entry.Object.(*corev1.ConfigMap).Data["value"]
		if len(value) != length+1 {
			t.Fatalf("value %q after one of length %d: a write was lost or skipped", value, length)
		}
		length++
	}
	wg.Wait()
	got, err := i.Get(t.Context(), "ns/a", "")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "length", len(got.Object.(*corev1.ConfigMap).Data["value"]), writers*rounds)
}

// testReadYourWrites reads right after each write.
func testReadYourWrites(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			name := fmt.Sprint("c", n)
			e, err := i.Create(t.Context(), "ns/"+name, ConfigMap("ns", name, "0"))
			if err != nil {
				t.Error(err)
				return
			}
			for range 50 {
				got, err := i.Get(t.Context(), e.Key, "")
				if err != nil || got.Revision != e.Revision {
					t.Errorf("read %v, %v after writing revision %d", got, err, e.Revision)
					return
				}
				l, err := i.List(t.Context(), "ns/", store.ListOptions{Predicate: byField(t, "metadata.name="+name)})
				if err != nil || len(l.Entries) != 1 || l.Entries[0].Revision != e.Revision || l.Revision < e.Revision {
					t.Errorf("listed %+v, %v after writing revision %d", l, err, e.Revision)
					return
				}
				if e, err = i.Update(t.Context(), e.Key, false, func(cur *store.Entry) (runtime.Object, error) {
					cm := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
					cm.Data["value"] += "."
					return cm, nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
			if _, err := i.Delete(t.Context(), e.Key, nil, nil); err != nil {
				t.Error(err)
			}
			_, err = i.Get(t.Context(), e.Key, "")
			reason(t, err, metav1.StatusReasonNotFound)
		})
	}
	wg.Wait()
}

// testCounters moves an amount between objects and lists meanwhile: every
// list, at whatever revision, is a state that was.
func testCounters(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	for n := range 4 {
		create(t, i, ConfigMap("ns", fmt.Sprint("c", n), ""))
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		// The values grow in the order of the keys, so in no state is a later
		// one longer than an earlier.
		for range 30 {
			for n := range 4 {
				if _, err := i.Update(t.Context(), fmt.Sprint("ns/c", n), false, func(cur *store.Entry) (runtime.Object, error) {
					cm := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
					cm.Data["value"] += "."
					return cm, nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	check := func(l *store.List) {
		last := -1
		for n, e := range l.Entries {
			length := len(e.Object.(*corev1.ConfigMap).Data["value"])
			if n > 0 && (length > last || length < last-1) {
				t.Errorf("list at %d is no state that ever was: %v", l.Revision, values(l))
			}
			last = length
			if e.Revision > l.Revision {
				t.Errorf("list at %d has an object of %d", l.Revision, e.Revision)
			}
		}
	}
	var past []int64
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		l := list(t, i, "ns/", store.ListOptions{})
		check(l)
		past = append(past, l.Revision)
		// Page through it while it changes.
		page := store.ListOptions{Limit: 1}
		whole := &store.List{}
		for {
			p := list(t, i, "ns/", page)
			whole.Revision = p.Revision
			whole.Entries = append(whole.Entries, p.Entries...)
			if page.Continue = p.Continue; page.Continue == "" {
				break
			}
		}
		equal(t, "pages", len(whole.Entries), 4)
		check(whole)
	}
	wg.Wait()
	for n := 0; n < len(past); n += max(1, len(past)/20) {
		l := list(t, i, "ns/", store.ListOptions{ResourceVersion: RV(past[n]), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		equal(t, "exact revision", l.Revision, past[n])
		check(l)
	}
}

// noRevision holds the error of a get or watch at what is no revision: it is no
// status of its own, and shown as it is.
func noRevision(t *testing.T, err error) {
	t.Helper()
	var status apierrors.APIStatus
	if err == nil || errors.As(err, &status) || !strings.HasPrefix(err.Error(), "resourceVersion: Invalid value: ") {
		t.Errorf("got error %v", err)
	}
}
