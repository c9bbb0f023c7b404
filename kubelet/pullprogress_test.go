package kubelet

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
)

func TestPullsTellHowFarTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		var done int64
		k := &Kubelet{cfg: Config{Clock: clock.RealClock{}, PullProgress: func(_ context.Context, image string) (int64, int64, error) {
			if image != "docker.io/library/app:1" {
				t.Errorf("asked about %q", image)
			}
			if done += 1e6; done == 1e6 {
				return 0, 0, nil // its size is not known yet
			}
			return done, 4e6, nil
		}}}
		quiet := k.tellProgress(t.Context(), "app", "docker.io/library/app:1", func(typ, reason, format string, args ...any) {
			said = append(said, typ+" "+reason+" "+fmt.Sprintf(format, args...))
		})
		time.Sleep(35 * time.Second) // of the bubble's clock
		quiet()
		time.Sleep(time.Minute)
		want := []string{`Normal Pulling Pulling image "app": 2.0 of 4.0 MB`, `Normal Pulling Pulling image "app": 3.0 of 4.0 MB`}
		if !slices.Equal(said, want) {
			t.Errorf("told %q, want %q", said, want)
		}
	})
}
