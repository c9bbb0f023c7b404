package authn

import "context"

// Keys of what authentication has to say to the audit record of a request (the
// page "Audit Annotations").
const (
	noteLegacy = "authentication.k8s.io/legacy-token"
	noteStale  = "authentication.k8s.io/stale-token"
)

// Notes are what authentication has to say to the audit record of one request.
// They are for the goroutine of the request alone.
type Notes struct{ all map[string]string }

type notesKey struct{}

// WithNotes returns a context in which authentication takes notes.
func WithNotes(ctx context.Context) (context.Context, *Notes) {
	n := &Notes{}
	return context.WithValue(ctx, notesKey{}, n), n
}

// All returns the notes by their keys, nil without any; n may be nil.
func (n *Notes) All() map[string]string {
	if n == nil {
		return nil
	}
	return n.all
}

// note takes a note if the request has a record.
func note(ctx context.Context, key, value string) {
	n, ok := ctx.Value(notesKey{}).(*Notes)
	if !ok {
		return
	}
	if n.all == nil {
		n.all = map[string]string{}
	}
	n.all[key] = value
}
