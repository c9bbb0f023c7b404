package scheduler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

// nextWithin returns the name of the next pod if one comes within d.
func nextWithin(q *Queue, d time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if p := q.Next(ctx); p != nil {
		return p.Name
	}
	return ""
}

func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(clock.RealClock{})
		for i, name := range []string{"old", "important", "young"} {
			p := pod(name)
			if name == "important" {
				p.Spec.Priority = ptr.To[int32](10)
			}
			q.Add(NewPod(p))
			time.Sleep(time.Duration(i+1) * time.Millisecond)
		}
		for _, want := range []string{"important", "old", "young"} {
			if got := nextWithin(q, time.Second); got != want {
				t.Fatalf("next is %q, want %q", got, want)
			}
		}
	})
}

func TestQueueSleepsUntilAnEventThatHelps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(clock.RealClock{})
		q.Add(NewPod(pod("p")))
		nextWithin(q, time.Second)
		q.Refused("p", NodeAdded|PodRemoved)
		q.Happened(NodeTaints)
		if got := nextWithin(q, time.Minute); got != "" {
			t.Fatalf("%s was tried again after an event that cannot help", got)
		}
		q.Happened(NodeAdded)
		if got := nextWithin(q, time.Millisecond); got != "p" {
			t.Fatal("not tried again after a node was added")
		}
	})
}

func TestQueueBackoffGrowsTo10s(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(clock.RealClock{})
		q.Add(NewPod(pod("p")))
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
			if nextWithin(q, time.Minute) != "p" {
				t.Fatalf("try %d did not come", i)
			}
			begin := time.Now()
			q.Refused("p", NodeAdded)
			q.Happened(NodeAdded)
			ctx := context.Background()
			if p := q.Next(ctx); p == nil || time.Since(begin) != want {
				t.Fatalf("try %d came after %v, want %v", i+1, time.Since(begin), want)
			}
			// Give it back for the next round without counting an attempt.
			q.mu.Lock()
			e := q.pods["p"]
			q.push(e, active, podAdded)
			q.mu.Unlock()
		}
	})
}

func TestQueueRemembersEventsDuringATry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(clock.RealClock{})
		q.Add(NewPod(pod("p")))
		nextWithin(q, time.Second)
		q.Happened(PodRemoved)
		q.Refused("p", PodRemoved)
		if got := nextWithin(q, 2*time.Second); got != "p" {
			t.Fatal("the event that came during the try was lost")
		}
	})
}

func TestQueuePatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(clock.RealClock{})
		q.Add(NewPod(pod("p")))
		nextWithin(q, time.Second)
		q.Refused("p", NodeAdded)
		if got := nextWithin(q, 4*time.Minute); got != "" {
			t.Fatal("tried again too early")
		}
		if got := nextWithin(q, 2*time.Minute); got != "p" {
			t.Fatal("never tried again without an event")
		}
	})
}

func TestQueueTakesOverChangedPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(clock.RealClock{})
		q.Add(NewPod(pod("p", requests("5", "1Gi"))))
		nextWithin(q, time.Second)
		q.Refused("p", PodUpdated)
		q.Add(NewPod(pod("p", requests("1", "1Gi"))))
		p := q.Next(context.Background())
		if p == nil || p.request.MilliCPU != 1000 {
			t.Fatal("the changed pod was not tried with its new requests")
		}
		q.Remove("p")
		q.Refused("p", NodeAdded)
		if q.Len() != 0 {
			t.Fatal("a removed pod is still queued")
		}
	})
}

// A pod whose claims are missing is not tried before one comes, and what
// happens to a claim wakes the pods alone that it concerns.
func TestPodsWaitForTheirClaims(t *testing.T) {
	claiming := func(name string) *Pod {
		return NewPod(pod(name, func(p *corev1.Pod) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: &name}}
		}))
	}
	q := NewQueue(testingclock.NewFakeClock(time.Unix(0, 0)))
	for _, name := range []string{"a", "b"} {
		q.Hold(claiming(name), DevicesChanged|PodUpdated)
	}
	next := func() string {
		if p, _ := q.pop(); p != nil {
			return p.Name
		}
		return ""
	}
	if got := next(); got != "" {
		t.Fatalf("%s is tried without its claim", got)
	}
	q.HappenedTo(DevicesChanged, func(p *Pod) bool { return p.Name == "b" })
	if got := next() + next(); got != "b" {
		t.Errorf("tried: %q, want b", got)
	}
	q.Happened(NodeAdded)
	if got := next(); got != "" {
		t.Errorf("%s is tried without its claim", got)
	}
	// What comes while a pod is tried is not lost.
	q.Happened(DevicesChanged)
	q.Refused("b", DevicesChanged)
	q.clock.(*testingclock.FakeClock).Step(initialBackoff)
	if got := next() + next(); got != "ab" && got != "ba" {
		t.Errorf("tried: %q, want both", got)
	}
	q.Remove("a")
	q.Remove("b")
	if len(q.devices) != 0 {
		t.Errorf("left over: %v", q.devices)
	}
}
