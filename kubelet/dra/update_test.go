package dra

import (
	"log/slog"
	"testing"
	"time"

	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/coxswain/cox/kubelet/plugins"
)

// While a driver is updated its last instance is called, and the one before
// when that goes.
func TestInstancesOfADriver(t *testing.T) {
	m, err := New(Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Clock: testingclock.NewFakeClock(time.Unix(0, 0))})
	if err != nil {
		t.Fatal(err)
	}
	at := func(endpoint string) plugins.Plugin {
		return plugins.Plugin{Name: "d", Endpoint: endpoint, Versions: []string{drav1.DRAPluginService}}
	}
	called := func(want string) {
		t.Helper()
		m.mu.Lock()
		defer m.mu.Unlock()
		have := ""
		if d := m.drivers["d"]; d != nil {
			have = d.endpoint
		}
		if have != want {
			t.Errorf("%q is called, want %q", have, want)
		}
	}
	for _, step := range []struct {
		register bool
		endpoint string
		called   string
	}{
		{true, "a", "a"}, {true, "b", "b"}, {false, "b", "a"}, {true, "c", "c"}, {false, "a", "c"}, {true, "c", "c"}, {false, "a", "c"}, {false, "c", ""},
	} {
		if step.register {
			if err := m.Register(t.Context(), at(step.endpoint)); err != nil {
				t.Fatal(err)
			}
		} else {
			m.Deregister(at(step.endpoint))
		}
		called(step.called)
	}
}
