package client

import (
	"context"
	"errors"
	"testing"
	"time"
)

type yes struct{ Interface }

func (yes) Do(context.Context, *Request) (*Result, error) { return &Result{}, nil }

func TestFence(t *testing.T) {
	n := &tenure{length: time.Minute}
	ctx := context.WithValue(t.Context(), tenureKey{}, n)
	door := Fenced(yes{})
	try := func(ctx context.Context, v Verb) bool {
		_, err := door.Do(ctx, &Request{Verb: v})
		if err != nil && !errors.Is(err, errNotLeading) {
			t.Fatal(err)
		}
		return err == nil
	}
	if try(ctx, Create) {
		t.Error("wrote before the lease was ever held")
	}
	n.renewed(time.Now())
	for _, v := range []Verb{Create, Update, Patch, Delete, DeleteCollection, Get} {
		if !try(ctx, v) {
			t.Errorf("%s is refused while the lease holds", v)
		}
	}
	n.renewed(time.Now().Add(-2 * time.Minute))
	if try(ctx, Update) || try(ctx, Delete) || !try(ctx, Get) || !try(ctx, List) {
		t.Error("a lease that has run out fences something else than writes")
	}
	if !try(t.Context(), Create) {
		t.Error("who does not compete is fenced")
	}
	// The machine slept: only the wall clock went on. And the reverse.
	now := time.Now()
	n.renewed(now)
	if n.holds(now.Round(0).Add(2*time.Minute)) || !n.holds(now.Add(time.Second)) || n.holds(now.Add(time.Minute)) {
		t.Error("one of the clocks has no say")
	}
}
