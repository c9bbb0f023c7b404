package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/coxswain/cox/internal/tenure"
)

type yes struct{ Interface }

func (yes) Do(context.Context, *Request) (*Result, error) { return &Result{}, nil }

func TestFence(t *testing.T) {
	n := &tenure.Tenure{Length: time.Minute}
	ctx := tenure.With(t.Context(), n)
	door := Fenced(yes{})
	try := func(ctx context.Context, v Verb) bool {
		_, err := door.Do(ctx, &Request{Verb: v})
		if err != nil && !errors.Is(err, tenure.ErrOver) {
			t.Fatal(err)
		}
		return err == nil
	}
	if try(ctx, Create) {
		t.Error("wrote before the lease was ever held")
	}
	n.Renewed(time.Now())
	for _, v := range []Verb{Create, Update, Patch, Delete, DeleteCollection, Get} {
		if !try(ctx, v) {
			t.Errorf("%s is refused while the lease holds", v)
		}
	}
	n.Renewed(time.Now().Add(-2 * time.Minute))
	if try(ctx, Update) || try(ctx, Delete) || !try(ctx, Get) || !try(ctx, List) {
		t.Error("a lease that has run out fences something else than writes")
	}
	if !try(t.Context(), Create) {
		t.Error("who does not compete is fenced")
	}
}
