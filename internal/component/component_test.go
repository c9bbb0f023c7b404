package component

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestRestartAfterPanicAndError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(context.Background(), slog.New(slog.DiscardHandler))
		calls := 0
		g.Go("loop", func(ctx context.Context) error {
			calls++
			switch calls {
			case 1:
				panic("first")
			case 2:
				return errors.New("second")
			}
			<-ctx.Done()
			return nil
		})
		synctest.Wait()
		if h := g.Health()[0]; h.Healthy || h.Message != "panic: first" || h.Restarts != 1 {
			t.Errorf("after a panic: %+v", h)
		}
		time.Sleep(time.Second) // of the bubble's clock: past both delays
		synctest.Wait()
		if h := g.Health()[0]; !h.Healthy || h.Restarts != 2 || calls != 3 {
			t.Errorf("after two failures: %+v, %d calls", h, calls)
		}
		g.Stop()
	})
}
