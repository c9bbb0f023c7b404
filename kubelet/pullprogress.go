package kubelet

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// progressPeriod is how often a pull that takes longer than this says how far
// it is.
const progressPeriod = 10 * time.Second

// tellProgress tells in events how far a pull is, until the function that it
// returns is called; that waits for the last word.
func (k *Kubelet) tellProgress(ctx context.Context, shown, image string, say func(typ, reason, format string, args ...any)) func() {
	if k.cfg.PullProgress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	t := k.cfg.Clock.NewTicker(progressPeriod)
	go func() {
		defer close(ended)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C():
			}
			done, total, err := k.cfg.PullProgress(ctx, image)
			if err == nil && total > 0 && ctx.Err() == nil {
				say(corev1.EventTypeNormal, "Pulling", "Pulling image %q: %.1f of %.1f MB", shown, float64(done)/1e6, float64(total)/1e6)
			}
		}
	}()
	return func() { cancel(); <-ended }
}
