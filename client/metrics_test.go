package client

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// What the loops do is measured in upstream's names, also what is under way.
func TestLoopIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics()
		fails := true
		l := NewMeasuredLoop("deployment", m, slog.New(slog.DiscardHandler), func(_ context.Context, key string) (time.Duration, error) {
			if key == "slow" {
				time.Sleep(time.Minute)
			}
			if key == "bad" && fails {
				fails = false
				return 0, errors.New("once")
			}
			return 0, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); l.Run(ctx, 1) }()
		l.Add("slow")
		synctest.Wait()
		l.Add("bad")
		time.Sleep(20 * time.Second)
		shows(t, m, "workqueue_depth 1", "workqueue_adds_total 2", "workqueue_unfinished_work_seconds 20", "workqueue_longest_running_processor_seconds 20")
		time.Sleep(time.Minute)
		shows(t, m, "workqueue_depth 0", "workqueue_adds_total 3", "workqueue_retries_total 1", "workqueue_unfinished_work_seconds 0",
			"workqueue_work_duration_seconds_count 3", "workqueue_queue_duration_seconds_count 3")
		cancel()
		<-ended
		if strings.Contains(text(t, m), "workqueue_unfinished_work_seconds{") {
			t.Error("a loop that has ended is still there")
		}
	})
}

// shows compares the samples of the loop "deployment".
func shows(t *testing.T, m *Metrics, want ...string) {
	t.Helper()
	all := text(t, m)
	for _, w := range want {
		name, value, _ := strings.Cut(w, " ")
		if line := name + `{name="deployment"} ` + value + "\n"; !strings.Contains(all, line) {
			t.Errorf("no %s in\n%s", line, all)
		}
	}
}

// text is what a scrape returns.
func text(t *testing.T, m *Metrics) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestRequestsAreCounted(t *testing.T) {
	m := NewMetrics()
	door := m.Counted(yes{}, "api:1")
	for range 3 {
		if _, err := door.Do(t.Context(), &Request{Verb: Update}); err != nil {
			t.Fatal(err)
		}
	}
	if all := text(t, m); !strings.Contains(all, `rest_client_requests_total{code="200",host="api:1",method="PUT"} 3`) {
		t.Errorf("three requests are counted as\n%s", all)
	}
	if (*Metrics)(nil).Counted(yes{}, "") != (yes{}) {
		t.Error("a door that nobody counts is wrapped")
	}
}
