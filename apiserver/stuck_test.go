package apiserver

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// bounded is an answer's writer that notes when its write deadline is set.
type bounded struct {
	http.ResponseWriter
	ended time.Time
}

func (b *bounded) SetReadDeadline(time.Time) error { return nil }
func (b *bounded) SetWriteDeadline(t time.Time) error {
	b.ended = t
	return nil
}

// A stream ends once one write has taken too long, whatever the timer was set
// for, and never while its writes come and go.
func TestStickiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &bounded{}
		s := stickiness{stuck: stuck{w: w}}
		for range 100 { // some seven minutes
			s.begin()
			time.Sleep(time.Second)
			s.end()
			time.Sleep(3 * time.Second)
		}
		time.Sleep(3 * patience)
		s.begin()
		s.end()
		time.Sleep(patience - time.Second) // the timer is about to look
		synctest.Wait()
		if !w.ended.IsZero() {
			t.Fatal("ended while it read")
		}
		s.begin()
		want := time.Now().Add(patience)
		time.Sleep(2 * patience)
		synctest.Wait()
		if !w.ended.Equal(want) {
			t.Errorf("ended at %v, want %v", w.ended, want)
		}
		s.finish()
	})
}

// Nothing is touched once the request is over.
func TestStickinessFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &bounded{}
		s := stickiness{stuck: stuck{w: w}}
		s.begin()
		s.finish()
		time.Sleep(2 * patience)
		synctest.Wait()
		if !w.ended.IsZero() {
			t.Error("ended after its end")
		}
	})
}
