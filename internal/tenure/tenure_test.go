package tenure

import (
	"errors"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	n := &Tenure{Length: time.Minute}
	ctx := With(t.Context(), n)
	if err := Check(ctx); !errors.Is(err, ErrOver) {
		t.Errorf("before the lease was ever held: %v", err)
	}
	n.Renewed(time.Now())
	if err := Check(ctx); err != nil {
		t.Errorf("while it holds: %v", err)
	}
	n.Renewed(time.Now().Add(-2 * time.Minute))
	if err := Check(ctx); !errors.Is(err, ErrOver) {
		t.Errorf("once it has run out: %v", err)
	}
	if err := Check(t.Context()); err != nil {
		t.Errorf("who does not compete: %v", err)
	}
}

// The machine slept: only the wall clock went on. And the reverse.
func TestClocks(t *testing.T) {
	n := &Tenure{Length: time.Minute}
	now := time.Now()
	n.Renewed(now)
	if n.Holds(now.Round(0).Add(2*time.Minute)) || !n.Holds(now.Add(time.Second)) || n.Holds(now.Add(time.Minute)) {
		t.Error("one of the clocks has no say")
	}
}
