package dra

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	"k8s.io/utils/clock"
)

// TestHealthAges: what a driver said holds for the time that it gave, then
// nobody knows.
func TestHealthAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes atomic.Int32
		m, err := New(Config{NodeName: "node", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}, Changed: func() { changes.Add(1) }})
		if err != nil {
			t.Fatal(err)
		}
		d := &driver{}
		m.drivers["gpu"] = d
		told := func(name string, h healthv1alpha1.HealthStatus, seconds int64) *healthv1alpha1.DeviceHealth {
			return &healthv1alpha1.DeviceHealth{
				Device: &healthv1alpha1.DeviceIdentifier{PoolName: "p", DeviceName: name}, Health: h,
				LastUpdatedTime: time.Now().Unix(), HealthCheckTimeoutSeconds: seconds, Message: strings.Repeat("x", 2000),
			}
		}
		m.healthListed(d, []*healthv1alpha1.DeviceHealth{
			told("short", healthv1alpha1.HealthStatus_HEALTHY, 5), told("long", healthv1alpha1.HealthStatus_UNHEALTHY, -1), told("odd", healthv1alpha1.HealthStatus_UNKNOWN, 5),
		})
		const healthy, sick, unknown = corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown
		want := func(when string, short, long corev1.ResourceHealthStatus, times int32) {
			t.Helper()
			synctest.Wait()
			if got := m.Health("gpu", "p", "short").Status; got != short {
				t.Errorf("%s: short is %s, want %s", when, got, short)
			}
			if got := m.Health("gpu", "p", "long").Status; got != long {
				t.Errorf("%s: long is %s, want %s", when, got, long)
			}
			for _, other := range []string{"odd", "none"} {
				if got := m.Health("gpu", "p", other).Status; got != unknown {
					t.Errorf("%s: %s is %s", when, other, got)
				}
			}
			if got := changes.Load(); got != times {
				t.Errorf("%s: told %d times, want %d", when, got, times)
			}
		}
		want("at once", healthy, sick, 1)
		if n := len(m.Health("gpu", "p", "long").Message); n != corev1.ResourceHealthMessageMaxLength {
			t.Errorf("a message of %d bytes", n)
		}
		time.Sleep(6 * time.Second)
		want("after 6 s", unknown, sick, 2)
		time.Sleep(healthLasts)
		want("after all", unknown, unknown, 3)
	})
}
