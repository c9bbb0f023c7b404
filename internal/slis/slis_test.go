package slis

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestResults(t *testing.T) {
	s := New()
	s.Observe("readyz", "etcd", nil)
	s.Observe("readyz", "etcd", nil)
	s.Observe("readyz", "etcd", errors.New("away"))
	s.Observe("livez", "etcd", nil)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/metrics/slis", nil))
	for _, line := range []string{
		"# TYPE kubernetes_healthcheck gauge", "# TYPE kubernetes_healthchecks_total counter",
		`kubernetes_healthcheck{name="etcd",type="readyz"} 0`,
		`kubernetes_healthcheck{name="etcd",type="livez"} 1`,
		`kubernetes_healthchecks_total{name="etcd",status="success",type="readyz"} 2`,
		`kubernetes_healthchecks_total{name="etcd",status="error",type="readyz"} 1`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("no %s in\n%s", line, w.Body)
		}
	}
}
