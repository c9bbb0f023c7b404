package dra

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// busy are claims that somebody works on. It is safe for concurrent use; the
// zero value is ready.
type busy struct {
	mu     sync.Mutex
	claims map[types.UID]chan struct{} // closed when the claim is free again
}

// take waits until nobody works on any of the claims, and makes them the
// caller's, all at once: who waits keeps none from others. It fails when ctx
// ends before.
func (b *busy) take(ctx context.Context, claims ...types.UID) error {
	for {
		wait := b.try(claims)
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// try takes the claims, or returns what to wait for before trying again.
func (b *busy) try(claims []types.UID) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, uid := range claims {
		if wait := b.claims[uid]; wait != nil {
			return wait
		}
	}
	if b.claims == nil {
		b.claims = map[types.UID]chan struct{}{}
	}
	for _, uid := range claims {
		b.claims[uid] = make(chan struct{})
	}
	return nil
}

// free gives back what take has taken.
func (b *busy) free(claims ...types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, uid := range claims {
		close(b.claims[uid])
		delete(b.claims, uid)
	}
}
