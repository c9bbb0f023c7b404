package proxy

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/datapath/lb"
)

func TestProgress(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	for name, c := range map[string]struct {
		steps   func(s *progress)
		now     int
		updated time.Time
		want    bool
	}{
		"nothing applied yet": {func(*progress) {}, 1, time.Time{}, false},
		"at rest":             {func(s *progress) { s.take(); s.done(at(1), 0) }, 1000, at(1000), true},
		"a change waits":      {func(s *progress) { s.take(); s.done(at(1), 0); s.queue(at(10)) }, 60, at(1), true},
		"a change waits long": {func(s *progress) { s.take(); s.done(at(1), 0); s.queue(at(10)) }, 130, at(1), false},
		"the oldest change counts": {func(s *progress) {
			s.take()
			s.done(at(1), 0)
			s.queue(at(10))
			s.queue(at(100))
		}, 130, at(1), false},
		"the kernel refuses, changes go on": {func(s *progress) {
			s.take()
			s.done(at(1), 0)
			s.queue(at(10))
			s.take()
			s.queue(at(100))
			s.take()
		}, 130, at(1), false},
		"a change came meanwhile": {func(s *progress) {
			s.queue(at(10))
			s.take()
			s.queue(at(100))
			s.done(at(101), 0)
		}, 130, at(101), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newProgress()
			c.steps(s)
			if updated, ok := s.healthy(at(c.now)); ok != c.want || !updated.Equal(c.updated) {
				t.Errorf("healthy %v, right up to %v; want %v, %v", ok, updated, c.want, c.updated)
			}
		})
	}
}

func TestHealthz(t *testing.T) {
	door, k := &doortest.Door{}, newKernel()
	var node *corev1.Node
	ask := func(p *Proxy, path string) (int, map[string]any) {
		t.Helper()
		w := httptest.NewRecorder()
		p.Healthz(func() *corev1.Node { return node }).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		got := map[string]any{}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got["lastUpdated"] == nil || got["currentTime"] == nil {
			t.Fatalf("%s: %q, %v", path, w.Body, err)
		}
		return w.Code, got
	}
	idle, err := New(Config{Informers: client.NewInformers(door), V4: k, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := ask(idle, "/livez"); code != 503 {
		t.Errorf("before any rule was written /livez answers %d", code)
	}
	p := run(t, door, k)
	doortest.Put(door, client.Services, service(nil))
	k.until(t, "the Service", func(r map[string]lb.Rule) bool { return len(r) > 0 })
	now := metav1.Now()
	for name, c := range map[string]struct {
		node *corev1.Node
		want bool
	}{
		"unknown":    {nil, true},
		"a node":     {&corev1.Node{}, true},
		"deleted":    {&corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}, false},
		"to be gone": {&corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: deletionTaint}}}}, false},
	} {
		node = c.node
		code, got := ask(p, "/healthz")
		if got["nodeEligible"] != c.want || (code == 200) != c.want {
			t.Errorf("%s: /healthz answers %d, %v", name, code, got)
		}
		if code, got := ask(p, "/livez"); code != 200 || got["nodeEligible"] != nil {
			t.Errorf("%s: /livez answers %d, %v", name, code, got)
		}
	}
}

func TestMetrics(t *testing.T) {
	door, k := &doortest.Door{}, newKernel()
	p := run(t, door, k)
	doortest.Put(door, client.Services, service(nil))
	k.until(t, "the Service", func(r map[string]lb.Rule) bool { return len(r) > 0 })
	h, err := p.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/proxyMode": "nftables", "/healthz": "ok", "/metrics": "kubeproxy_sync_proxy_rules_service_changes_total 1\n",
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s answers %d without %q", path, w.Code, want)
		}
	}
}

// An address that another cluster has is left to it.
func TestAnswer(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	log := slog.New(slog.DiscardHandler)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := taken.Addr().String()
	Answer(t.Context(), log, "port", address, hello) // returns
	Answer(t.Context(), log, "port", "", hello)
	taken.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Answer(ctx, log, "port", address, hello) }()
	for {
		resp, err := http.Get("http://" + address)
		if err != nil {
			continue // not open yet
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(raw) != "hello" {
			t.Errorf("%q, %v", raw, err)
		}
		break
	}
	cancel()
	<-done
}
