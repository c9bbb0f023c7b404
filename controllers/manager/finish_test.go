package manager

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coxswain/cox/client"
)

// slow takes a time for every request, unless its context ends before.
type slow struct {
	client.Interface
	takes time.Duration
	done  int
}

func (s *slow) Do(ctx context.Context, _ *client.Request) (*client.Result, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.takes):
		s.done++
		return &client.Result{}, nil
	}
}

func TestWritesAreSeenThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			verb  client.Verb
			takes time.Duration
			ends  time.Duration // of the controller, after the request began
			done  int
		}{
			{client.Create, time.Second, time.Minute, 1},
			{client.Create, time.Second, time.Millisecond, 1},
			{client.Delete, time.Second, time.Millisecond, 1},
			{client.Create, time.Minute, time.Millisecond, 0},
			{client.Create, time.Second, 0, 0},
			{client.List, time.Second, time.Millisecond, 0},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), tc.ends)
			s := &slow{takes: tc.takes}
			_, err := finishing{s}.Do(ctx, &client.Request{Verb: tc.verb})
			cancel()
			if s.done != tc.done || (err == nil) != (tc.done == 1) || err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%+v: done %d, %v", tc, s.done, err)
			}
		}
	})
}
