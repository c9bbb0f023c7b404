package server

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coxswain/cox/internal/slis"
)

// TestHealth: what the kubelet says of itself is counted, and counted again
// when somebody reads the counts.
func TestHealth(t *testing.T) {
	var broken error
	s := &Server{cfg: Config{Healthy: func() error { return broken }}, slis: slis.New()}
	s.routes()
	ask := func(path string, code int) string {
		t.Helper()
		w := httptest.NewRecorder()
		s.mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != code {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	if ask("/healthz", 200) != "ok" || ask("/healthz/syncloop", 200) != "ok" {
		t.Error("not ok")
	}
	ask("/healthz/etcd", 404)
	broken = errors.New("stuck")
	ask("/healthz/ping", 500)
	got := ask("/metrics/slis", 200)
	for _, line := range []string{
		`kubernetes_healthcheck{name="syncloop",type="healthz"} 0`,
		`kubernetes_healthchecks_total{name="syncloop",status="success",type="healthz"} 2`,
		`kubernetes_healthchecks_total{name="syncloop",status="error",type="healthz"} 2`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no %s in\n%s", line, got)
		}
	}
}
