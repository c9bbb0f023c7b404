package admission

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// gateWait is how long a write waits for what admission has to read first.
const gateWait = 10 * time.Second

var errNotReady = errors.New("not yet ready to handle request")

// NotReady says that a write was refused because admission had not read yet what
// it judges by: the same write may be let through later.
func NotReady(err error) bool {
	return apierrors.IsForbidden(err) && strings.HasSuffix(err.Error(), errNotReady.Error())
}

// Gate holds writes back until what a plugin judges them by has been read.
// Make one with NewGate; it is safe for concurrent use.
type Gate struct {
	once sync.Once
	open chan struct{}
}

// NewGate returns a gate that is shut.
func NewGate() *Gate { return &Gate{open: make(chan struct{})} }

// Open lets everybody through from now on; it may be called again.
func (g *Gate) Open() { g.once.Do(func() { close(g.open) }) }

// Opened is closed once the gate is open.
func (g *Gate) Opened() <-chan struct{} { return g.open }

// Wait returns when the gate is open. A write that has waited 10 s, or whose
// ctx ends before, is refused as Forbidden, as upstream's plugins do.
func (g *Gate) Wait(ctx context.Context, a *Attributes) error {
	select {
	case <-g.open:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, gateWait)
	defer cancel()
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return apierrors.NewForbidden(a.Resource.GroupResource(), a.ShownName(), errNotReady)
	}
}
