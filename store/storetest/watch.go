package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/store"
)

func testWatchFromNow(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	old := create(t, i, ConfigMap("ns", "old", "1"))
	no := false
	synthetic := watch(t, i, "", store.WatchOptions{})
	bare := watch(t, i, "", store.WatchOptions{SendInitialEvents: &no})
	expect(t, synthetic, store.Added, "ns/old", old.Revision)
	e1 := create(t, i, ConfigMap("ns", "a", "1"))
	e2 := set(t, i, "ns/a", "2")
	e3 := remove(t, i, "ns/a")
	e4 := create(t, i, ConfigMap("ns", "a", "3"))
	for _, w := range []store.Watcher{synthetic, bare} {
		expect(t, w, store.Added, "ns/a", e1.Revision)
		expect(t, w, store.Modified, "ns/a", e2.Revision)
		ev := expect(t, w, store.Deleted, "ns/a", e3.Revision)
		equal(t, "last state", ev.Entry.Object.(*corev1.ConfigMap).Data["value"], "2")
		expect(t, w, store.Added, "ns/a", e4.Revision)
	}
}

func testWatchResume(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	var all []*store.Entry
	all = append(all, create(t, i, ConfigMap("ns", "a", "0")))
	for n := range 40 {
		all = append(all, set(t, i, "ns/a", fmt.Sprint(n+1)))
	}
	for _, from := range []int{0, 1, 20, 39, 40} {
		w := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(all[from].Revision)})
		for n := from + 1; n < len(all); n++ {
			ev := expect(t, w, store.Modified, "ns/a", all[n].Revision)
			equal(t, "value", ev.Entry.Object.(*corev1.ConfigMap).Data["value"], fmt.Sprint(n))
		}
	}
	// A revision yet to come: what comes before it is not sent.
	e := all[len(all)-1]
	w := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(e.Revision + 2)})
	set(t, i, "ns/a", "x")
	set(t, i, "ns/a", "y")
	last := set(t, i, "ns/a", "z")
	expect(t, w, store.Modified, "ns/a", last.Revision)
	_, err := i.Watch(t.Context(), "", store.WatchOptions{ResourceVersion: "abc"})
	noRevision(t, err)
}

// testWatchExpired asks for history that is gone.
func testWatchExpired(t *testing.T, open Opener) {
	f := open(t, Options{History: store.History{Least: 1, Bytes: 1}})
	i := f.Kind(ConfigMaps)
	e1 := create(t, i, ConfigMap("ns", "a", "1"))
	for n := range 5 {
		set(t, i, "ns/a", fmt.Sprint(n+2))
	}
	last := set(t, i, "ns/a", "last")
	if _, err := f.Backend.Compact(t.Context(), last.Revision); err != nil {
		t.Fatal(err)
	}
	w := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(e1.Revision)})
	ev := next(t, w)
	if ev.Type != store.Error {
		t.Fatalf("got event %d at %d, want an error", ev.Type, ev.Revision)
	}
	reason(t, ev.Err, metav1.StatusReasonExpired)
	if _, open := <-w.Events(); open {
		t.Error("the watch goes on after its error")
	}
	// The newest revision is not gone.
	w = watch(t, i, "", store.WatchOptions{ResourceVersion: RV(last.Revision)})
	e := remove(t, i, "ns/a")
	expect(t, w, store.Deleted, "ns/a", e.Revision)
}

// testWatchSelectors follows objects that begin and cease to match.
func testWatchSelectors(t *testing.T, open Opener) {
	f := open(t, Options{})
	i, pods := f.Kind(ConfigMaps), f.Kind(Pods)
	web := watch(t, i, "", store.WatchOptions{Predicate: byLabel(t, "app=web")})
	name := watch(t, i, "ns/", store.WatchOptions{Predicate: byField(t, "metadata.name=a")})
	other := watch(t, i, "", store.WatchOptions{Predicate: byField(t, "metadata.namespace=ns2")})

	e1 := create(t, i, ConfigMap("ns", "a", "db"))
	e2 := set(t, i, "ns/a", "web")
	e3, err := i.Update(t.Context(), "ns/a", false, func(cur *store.Entry) (runtime.Object, error) {
		cm := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
		cm.Data["value"] = "still web"
		return cm, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	e4 := set(t, i, "ns/a", "db")
	e5 := create(t, i, ConfigMap("ns2", "b", "web"))
	e6 := remove(t, i, "ns/a")
	e7 := remove(t, i, "ns2/b")

	expect(t, web, store.Added, "ns/a", e2.Revision)
	expect(t, web, store.Modified, "ns/a", e3.Revision)
	ev := expect(t, web, store.Deleted, "ns/a", e4.Revision)
	equal(t, "the last state that matched", ev.Entry.Object.(*corev1.ConfigMap).Data["value"], "still web")
	checkRevision(t, e3) // which is shared and stays as it was
	expect(t, web, store.Added, "ns2/b", e5.Revision)
	expect(t, web, store.Deleted, "ns2/b", e7.Revision)

	expect(t, name, store.Added, "ns/a", e1.Revision)
	for _, e := range []*store.Entry{e2, e3, e4} {
		expect(t, name, store.Modified, "ns/a", e.Revision)
	}
	expect(t, name, store.Deleted, "ns/a", e6.Revision)

	expect(t, other, store.Added, "ns2/b", e5.Revision)
	expect(t, other, store.Deleted, "ns2/b", e7.Revision)

	// A pod is bound, and moves in a way that pods do not.
	n1 := watch(t, pods, "", store.WatchOptions{Predicate: byField(t, "spec.nodeName=n1")})
	n2 := watch(t, pods, "", store.WatchOptions{Predicate: byField(t, "spec.nodeName=n2")})
	none := watch(t, pods, "", store.WatchOptions{Predicate: byField(t, "spec.nodeName=")})
	move := func(node string) *store.Entry {
		e, err := pods.Update(t.Context(), "ns/p", false, func(cur *store.Entry) (runtime.Object, error) {
			p := cur.Object.DeepCopyObject().(*corev1.Pod)
			p.Spec.NodeName = node
			return p, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	p1 := create(t, pods, Pod("ns", "p", ""))
	p2 := move("n1")
	p3 := move("n2")
	p4 := remove(t, pods, "ns/p")
	expect(t, none, store.Added, "ns/p", p1.Revision)
	expect(t, none, store.Deleted, "ns/p", p2.Revision)
	expect(t, n1, store.Added, "ns/p", p2.Revision)
	gone := expect(t, n1, store.Deleted, "ns/p", p3.Revision)
	equal(t, "node it was on", gone.Entry.Object.(*corev1.Pod).Spec.NodeName, "n1")
	expect(t, n2, store.Added, "ns/p", p3.Revision)
	expect(t, n2, store.Deleted, "ns/p", p4.Revision)
}

func testWatchNamespace(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	w := watch(t, i, "a/", store.WatchOptions{})
	create(t, i, ConfigMap("a-b", "x", "1"))
	create(t, i, ConfigMap("b", "x", "1"))
	e := create(t, i, ConfigMap("a", "x", "1"))
	expect(t, w, store.Added, "a/x", e.Revision)
	remove(t, i, "b/x")
	e = remove(t, i, "a/x")
	expect(t, w, store.Deleted, "a/x", e.Revision)
}

func testWatchInitialEvents(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	a := create(t, i, ConfigMap("ns", "a", "web"))
	b := create(t, i, ConfigMap("ns", "b", "db"))
	c := create(t, i, ConfigMap("ns2", "c", "web"))
	yes := true
	for _, at := range []string{"", "0", RV(a.Revision), RV(c.Revision)} {
		w := watch(t, i, "", store.WatchOptions{ResourceVersion: at, SendInitialEvents: &yes, Bookmarks: true})
		expect(t, w, store.Added, "ns/a", a.Revision)
		expect(t, w, store.Added, "ns/b", b.Revision)
		expect(t, w, store.Added, "ns2/c", c.Revision)
		end := next(t, w)
		if end.Type != store.Bookmark || !end.InitialEventsEnd || end.Revision < c.Revision {
			t.Fatalf("at %q: got %+v, want the bookmark that ends the initial events", at, end)
		}
	}
	w := watch(t, i, "ns/", store.WatchOptions{SendInitialEvents: &yes, Bookmarks: true, Predicate: byLabel(t, "app=web")})
	expect(t, w, store.Added, "ns/a", a.Revision)
	if end := next(t, w); end.Type != store.Bookmark || !end.InitialEventsEnd {
		t.Fatalf("got %+v", end)
	}
	e := set(t, i, "ns/b", "web")
	expect(t, w, store.Added, "ns/b", e.Revision)

	w = watch(t, i, "", store.WatchOptions{ResourceVersion: RV(e.Revision + 1000), SendInitialEvents: &yes})
	end := next(t, w)
	if end.Type != store.Error {
		t.Fatalf("got %+v", end)
	}
	tooLarge(t, end.Err)
}

func testWatchBookmarks(t *testing.T, open Opener) {
	f := open(t, Options{BookmarkEvery: 20 * time.Millisecond})
	i := f.Kind(ConfigMaps)
	e := create(t, i, ConfigMap("ns", "a", "1"))
	w := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(e.Revision), Bookmarks: true})
	silent := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(e.Revision)})
	// Another kind moves the revision on.
	other := create(t, f.Kind(Pods), Pod("ns", "p", ""))
	for {
		ev := next(t, w)
		if ev.Type != store.Bookmark || ev.InitialEventsEnd {
			t.Fatalf("got %+v, want a bookmark", ev)
		}
		if ev.Revision >= other.Revision {
			break
		}
	}
	// After a bookmark come only changes that are newer.
	e = set(t, i, "ns/a", "2")
	for {
		ev := next(t, w)
		if ev.Type == store.Bookmark {
			continue
		}
		equal(t, "revision", ev.Revision, e.Revision)
		break
	}
	expect(t, silent, store.Modified, "ns/a", e.Revision)
}

func testWatchEnds(t *testing.T, open Opener) {
	i := open(t, Options{}).Kind(ConfigMaps)
	drain := func(w store.Watcher) {
		t.Helper()
		timeout := time.After(30 * time.Second)
		for {
			select {
			case _, ok := <-w.Events():
				if !ok {
					return
				}
			case <-timeout:
				t.Fatal("the watch does not end")
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	w, err := i.Watch(ctx, "", store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	drain(w)
	w.Stop() // and again
	w = watch(t, i, "", store.WatchOptions{})
	w.Stop()
	w.Stop()
	drain(w)
	// With events that no one takes.
	w = watch(t, i, "", store.WatchOptions{})
	create(t, i, ConfigMap("ns", "a", "0"))
	for n := range 60 {
		set(t, i, "ns/a", fmt.Sprint(n+1))
	}
	w.Stop()
	drain(w)
}

// testWatchSlow leaves a watcher behind while another keeps up. It gets all
// in the end, or is told that it missed something.
func testWatchSlow(t *testing.T, open Opener) {
	for name, history := range map[string]store.History{"long history": {}, "short history": {Least: 5, Bytes: 1}} {
		t.Run(name, func(t *testing.T) {
			i := open(t, Options{History: history}).Kind(ConfigMaps)
			first := create(t, i, ConfigMap("ns", "a", "0"))
			slow := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(first.Revision)})
			quick := watch(t, i, "", store.WatchOptions{ResourceVersion: RV(first.Revision)})
			var all []*store.Entry
			for n := range 100 {
				all = append(all, set(t, i, "ns/a", fmt.Sprint(n+1)))
				expect(t, quick, store.Modified, "ns/a", all[n].Revision)
			}
			for _, e := range all {
				ev := next(t, slow)
				if ev.Type == store.Error {
					reason(t, ev.Err, metav1.StatusReasonExpired)
					if history.Least == 0 {
						t.Error("lost a watcher although the history was long enough")
					}
					return
				}
				equal(t, "revision", ev.Revision, e.Revision)
			}
			last := remove(t, i, "ns/a")
			expect(t, slow, store.Deleted, "ns/a", last.Revision)
		})
	}
}
