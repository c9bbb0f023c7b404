package apiserver_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
)

// TestHealth: what probes and people read of the three endpoints, letter by
// letter.
func TestHealth(t *testing.T) {
	w := newWorld(t)
	done := w.srv.PostStart("rbac/bootstrap-roles", "start-it")
	var broken error
	w.srv.AddCheck("etcd", func(context.Context) error { return broken })
	w.srv.AddReadyCheck("informer-sync", func(context.Context) error { return nil })
	const hooks = "[+]poststarthook/rbac/bootstrap-roles ok\n[+]poststarthook/start-it ok\n"
	unfinished := strings.ReplaceAll(strings.ReplaceAll(hooks, "[+]", "[-]"), " ok", " failed: reason withheld")
	ask := func(path string, code int, want string) {
		t.Helper()
		if resp, body := w.http("GET", path, ""); resp.StatusCode != code || body != want {
			t.Errorf("%s: %d %q, want %d %q", path, resp.StatusCode, body, code, want)
		}
	}
	const failed, good = http.StatusInternalServerError, http.StatusOK

	ask("/livez", failed, "[+]ping ok\n"+unfinished+"[+]etcd ok\nlivez check failed\n")
	ask("/readyz/poststarthook/start-it", failed, "internal server error: not finished\n")
	done()
	done() // once more is no harm
	ask("/livez", good, "ok")
	ask("/healthz?verbose", good, "[+]ping ok\n"+hooks+"[+]etcd ok\nhealthz check passed\n")
	ask("/readyz?verbose", good, "[+]ping ok\n"+hooks+"[+]etcd ok\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check passed\n")
	ask("/readyz/poststarthook/start-it", good, "ok")
	ask("/readyz/ping?verbose", good, "ok")
	ask("/readyz/shutdown", good, "ok")
	ask("/livez/informer-sync", http.StatusNotFound, "404 page not found\n")

	broken = errors.New("the disk of 10.0.0.1 is full")
	ask("/readyz", failed, "[+]ping ok\n"+hooks+"[-]etcd failed: reason withheld\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check failed\n")
	ask("/livez/etcd", failed, "internal server error: the disk of 10.0.0.1 is full\n")
	ask("/livez?exclude=etcd", good, "ok")
	ask("/livez?verbose&exclude=etcd&exclude=what&exclude=a%22b&exclude=what", good,
		"[+]ping ok\n"+hooks+"[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"a\\\"b\",\"what\"\nlivez check passed\n")
	ask("/livez?exclude=what", failed,
		"[+]ping ok\n"+hooks+"[-]etcd failed: reason withheld\nwarn: some health checks cannot be excluded: no matches for \"what\"\nlivez check failed\n")
}

// TestSLIs: a scrape shows every check of every endpoint as it is now, and how
// often it was what.
func TestSLIs(t *testing.T) {
	w := newWorld(t)
	var broken error
	w.srv.AddCheck("etcd", func(context.Context) error { return broken })
	w.srv.AddReadyCheck("informer-sync", func(context.Context) error { return nil })
	want := func(lines ...string) {
		t.Helper()
		_, body := w.http("GET", "/metrics/slis", "")
		for _, line := range lines {
			if !strings.Contains(body, line+"\n") {
				t.Errorf("no %s in\n%s", line, body)
			}
		}
		if strings.Contains(body, `name="informer-sync",status="success",type="livez"`) {
			t.Errorf("livez has a check of readyz")
		}
	}
	want(`# TYPE kubernetes_healthcheck gauge`, `# TYPE kubernetes_healthchecks_total counter`,
		`kubernetes_healthcheck{name="ping",type="healthz"} 1`,
		`kubernetes_healthcheck{name="informer-sync",type="readyz"} 1`,
		`kubernetes_healthchecks_total{name="etcd",status="success",type="livez"} 1`)
	broken = errors.New("gone")
	w.http("GET", "/livez", "")
	w.http("GET", "/livez/etcd", "")
	w.http("GET", "/livez?exclude=etcd", "") // which asks nothing of etcd
	want(`kubernetes_healthcheck{name="etcd",type="livez"} 0`,
		`kubernetes_healthchecks_total{name="etcd",status="success",type="livez"} 1`,
		`kubernetes_healthchecks_total{name="etcd",status="error",type="livez"} 3`,
		`kubernetes_healthchecks_total{name="etcd",status="error",type="readyz"} 1`)
}
