// Package admission holds the plugins that may change or refuse a write
// between its being decoded and its being stored.
package admission

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
)

// Operation is what is done to the object.
type Operation string

// The operations, as webhooks and policies name them.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes is the write under admission.
type Attributes struct {
	User        client.User
	Operation   Operation
	Kind        schema.GroupVersionKind     // of Object, the hub's
	Resource    schema.GroupVersionResource // as requested
	Subresource string
	Namespace   string
	Name        string // may be "" on create with generateName; is on delete of a collection
	DryRun      bool
	Options     *client.Options
	// Object is the new object in its hub type (nil on delete). Admit may
	// change it; Validate must not. For an Action subresource it is the body.
	Object runtime.Object
	// Old is the stored object (nil on create). Read only.
	Old runtime.Object
	// Warn adds a warning for the user.
	Warn func(text string)
	// Annotate adds an audit annotation.
	Annotate func(key, value string)

	// Round is 0 and, when the mutating phase runs a second time, 1. Again,
	// which a plugin sets in round 0 after it changed Object late in the chain,
	// asks for the second time. Memo is what plugins keep between the rounds,
	// by their names.
	Round int
	Again bool
	Memo  map[string]any
	// Waited is how long webhooks took so far, for which the server is not to
	// blame.
	Waited time.Duration
}

// Remember keeps a plugin's value for the next round.
func (a *Attributes) Remember(plugin string, v any) {
	if a.Memo == nil {
		a.Memo = map[string]any{}
	}
	a.Memo[plugin] = v
}

// ShownName is the object's name as refusals have it; one that is yet to be
// made up is shown as its prefix, and "Unknown" if there is none, as where a
// collection is deleted.
func (a *Attributes) ShownName() string {
	if a.Name != "" {
		return a.Name
	}
	if o, ok := a.Object.(metav1.Object); ok {
		if o.GetName() != "" {
			return o.GetName()
		}
		if o.GetGenerateName() != "" {
			return o.GetGenerateName()
		}
	}
	return "Unknown"
}

// Plugin is one admission plugin. Admit runs in the mutating phase, Validate
// in the validating one, both inside the write's transaction, so either may
// run more than once. An error refuses the write: a *apierrors.StatusError as
// it is, any other becomes 403 Forbidden with upstream's text. Plugins are
// safe for concurrent use.
type Plugin interface {
	Name() string
	Handles(op Operation) bool
	Admit(ctx context.Context, a *Attributes) error
	Validate(ctx context.Context, a *Attributes) error
}
