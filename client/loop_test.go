package client

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

func TestLoopRetriesErrorsAndPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start, calls := time.Now(), 0
		var last time.Duration
		l := NewLoop("test", slog.New(slog.DiscardHandler), func(context.Context, string) (time.Duration, error) {
			calls++
			last = time.Since(start)
			switch calls {
			case 1:
				return 0, errors.New("first")
			case 2:
				panic("second")
			case 3:
				return time.Hour, nil
			}
			return 0, nil
		})
		go l.Run(ctx, 2)
		l.Add("key")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if calls != 4 || last < time.Hour {
			t.Errorf("%d calls, the last after %v; want 4, the last an hour after the third", calls, last)
		}
		cancel()
		synctest.Wait()
	})
}

func pod(name, rv string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: "u-" + "1", ResourceVersion: rv}}
}

// A reconcile waits for its own writes: for the newest version of what it
// wrote, and until nothing that it deleted looks alive.
func TestWrites(t *testing.T) {
	inf := Informer[*corev1.Pod]{cache.NewSharedIndexInformer(&cache.ListWatch{}, nil, 0, cache.Indexers{})}
	store := inf.GetStore()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var w Writes
	if !inf.CaughtUp(&w, "k") {
		t.Error("nothing was written")
	}
	w.Wrote("k", pod("a", "12"))
	w.Wrote("k", pod("b", "9")) // an older answer that came later
	must(store.Add(pod("b", "9")))
	if inf.CaughtUp(&w, "k") {
		t.Error("version 12 has not been seen")
	}
	if !inf.CaughtUp(&w, "other") {
		t.Error("another key wrote nothing")
	}
	must(store.Add(pod("a", "12")))
	for range 2 { // also after it has been forgotten
		if !inf.CaughtUp(&w, "k") {
			t.Error("version 12 has been seen")
		}
	}
	a := pod("a", "12")
	w.Deleted("k", a)
	if inf.CaughtUp(&w, "k") {
		t.Error("the pod looks alive")
	}
	dying := pod("a", "13")
	dying.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	must(store.Update(dying))
	if !inf.CaughtUp(&w, "k") {
		t.Error("the pod is being deleted")
	}
	w.Deleted("k", a)
	w.Undelete("k", a)
	must(store.Update(pod("a", "14")))
	if !inf.CaughtUp(&w, "k") {
		t.Error("the delete was taken back")
	}
	w.Deleted("k", a)
	again := pod("a", "15")
	again.UID = "another"
	must(store.Update(again))
	if !inf.CaughtUp(&w, "k") {
		t.Error("another pod has the name now")
	}
}
