package kubelet

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/coxswain/cox/kubelet/csi"
)

// A pod whose driver is gone is tried ever more rarely; other causes pass.
func TestEndDelay(t *testing.T) {
	driver := errors.Join(nil, &csi.Error{Step: "UnmountVolume.TearDown", Volume: "v", Err: errors.New("driver name d not found in the list of registered CSI drivers")})
	other := errors.New("the runtime does not answer")
	for i, tc := range []struct {
		before time.Duration
		err    error
		want   time.Duration
	}{
		{0, driver, 2 * time.Second},
		{2 * time.Second, driver, 4 * time.Second},
		{4 * time.Second, fmt.Errorf("release: %w", driver), 8 * time.Second},
		{64 * time.Second, driver, 2 * time.Minute},
		{2 * time.Minute, driver, 2 * time.Minute},
		{0, other, 2 * time.Second},
		{2 * time.Minute, other, 2 * time.Second},
	} {
		if got := endDelay(tc.before, tc.err); got != tc.want {
			t.Errorf("%d: after %v and %v: %v, want %v", i, tc.before, tc.err, got, tc.want)
		}
	}
}
