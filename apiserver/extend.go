// Package apiserver turns requests into transactions on the store: two doors
// (HTTP and in-process) lead into one pipeline of authentication,
// authorization, admission, validation and compare-and-swap, which one
// generic handler drives for every kind of the table.
package apiserver

import (
	"context"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
)

// Hook adds to the writes of one kind what needs other objects, such as the
// allocation of cluster IPs. Nil functions do nothing.
type Hook struct {
	// Begin runs inside the transaction after mutating admission and
	// preparation, before validation. obj is nil on delete, old nil on create. It may
	// change obj. The function it returns (may be nil) is called once with
	// whether the write was committed, to keep or undo what Begin reserved;
	// it is also called with false before the transaction starts over.
	Begin func(ctx context.Context, req *client.Request, obj, old runtime.Object) (done func(committed bool), err error)
}

// ActionFunc carries out a posted subresource (binding, eviction, token) or a
// create of a kind that is not stored (TokenReview). body is the decoded,
// defaulted and validated hub object in req.Object. Authorization has passed;
// admission has for subresources of stored kinds.
type ActionFunc func(ctx context.Context, req *client.Request) (*client.Result, error)

// ConnectFunc serves a streamed or proxied subresource on the raw
// connection. opts is the decoded options object; path is what follows the
// subresource in the URL.
type ConnectFunc func(w http.ResponseWriter, r *http.Request, req *client.Request, opts runtime.Object, path string)

// Extensions is what kinds need beyond their rows. Keys of Actions and
// Connects are "resource.group/subresource" as in
// schema.GroupResource.String(), without "/subresource" for unstored kinds.
type Extensions struct {
	Hooks    map[schema.GroupResource]Hook
	Actions  map[string]ActionFunc
	Connects map[string]ConnectFunc
}
