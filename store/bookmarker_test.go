package store

import (
	"testing"
	"testing/synctest"
	"time"
)

// The bookmarks of all kinds come at once, never later than they are due, and
// those of very many watches on their own.
func TestBookmarksTogether(t *testing.T) {
	now := time.Unix(1_000_000_000, 123_456_789)
	a, b := newBookmarker(time.Minute), newBookmarker(time.Minute)
	first := now.Add(a.wait(now))
	for _, later := range []time.Duration{0, time.Millisecond, 10 * time.Second, 59 * time.Second} {
		at := now.Add(later)
		wait := b.wait(at)
		if next := at.Add(wait); wait <= 0 || wait > time.Minute || next.Sub(first)%time.Minute != 0 {
			t.Errorf("after %v: %v later, the others at %v", later, wait, first)
		}
	}
	for range alignMost + 1 {
		a.set[&watcher{}] = struct{}{}
	}
	if wait := a.wait(now); wait != time.Minute {
		t.Errorf("many watches wait for %v", wait)
	}
}

// The timer goes on every minute while there are watches.
func TestBookmarkerRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBookmarker(time.Minute)
		defer b.stop()
		w := &watcher{}
		b.add(w)
		b.remove(w)
		time.Sleep(time.Minute)
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.timer != nil {
			t.Error("it goes on for nobody")
		}
	})
}
