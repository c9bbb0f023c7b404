package client

import (
	"context"

	"github.com/coxswain/cox/internal/tenure"
)

// Fenced returns a door that refuses to begin a write, not to read, once the
// lease under which its context leads (see Election.Lead) has run out. The API
// server in the same process asks again when it stores what was written.
func Fenced(door Interface) Interface { return fenced{door} }

type fenced struct{ Interface }

// Do implements Interface.
func (f fenced) Do(ctx context.Context, req *Request) (*Result, error) {
	if req.Verb != Get && req.Verb != List {
		if err := tenure.Check(ctx); err != nil {
			return nil, err
		}
	}
	return f.Interface.Do(ctx, req)
}
