package probes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"
)

// script answers checks in order, the last one for ever: "+" passes, "-" does
// not, "!" is an error.
type script struct {
	begun time.Time

	mu      sync.Mutex
	answers map[*corev1.Probe]string
	log     []string
}

// told returns when there were checks.
func (s *script) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func (s *script) Check(_ context.Context, t *Target, p *corev1.Probe) (bool, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.answers[p]
	if len(a) > 1 {
		s.answers[p] = a[1:]
	}
	s.log = append(s.log, fmt.Sprintf("%v", time.Since(s.begun)))
	switch a[0] {
	case '!':
		return false, "", errors.New("broken")
	case '-':
		return false, "no", nil
	}
	return true, "", nil
}

func TestThresholds(t *testing.T) {
	probe := func(p corev1.Probe) *corev1.Probe { p.PeriodSeconds = 10; return &p }
	for _, c := range []struct {
		name    string
		kind    Kind
		probe   *corev1.Probe
		answers string
		run     time.Duration
		want    Outcome
		times   string // of the checks
		said    int64
	}{
		{"ready", Readiness, probe(corev1.Probe{}), "+", 25 * time.Second, Success, "0s 10s 20s", 0},
		{"delayed", Readiness, probe(corev1.Probe{InitialDelaySeconds: 5}), "+", 4 * time.Second, Unknown, "", 0},
		{"late", Readiness, probe(corev1.Probe{InitialDelaySeconds: 5}), "+", 6 * time.Second, Success, "5s", 0},
		{"ready a moment after the start", Readiness, probe(corev1.Probe{}), "---+", time.Second, Success, "0s 100ms 300ms 700ms", 0},
		{"never ready", Readiness, probe(corev1.Probe{FailureThreshold: 1}), "-", 21 * time.Second, Failure, "0s 100ms 300ms 700ms 1.5s 3.1s 6.3s 12.7s", 1},
		{"two successes", Readiness, probe(corev1.Probe{SuccessThreshold: 2}), "+", 9 * time.Second, Unknown, "0s", 0},
		{"no longer ready", Readiness, probe(corev1.Probe{FailureThreshold: 2}), "+--", 21 * time.Second, Failure, "0s 10s 20s", 2},
		{"nearly", Readiness, probe(corev1.Probe{FailureThreshold: 3}), "+--+", 31 * time.Second, Success, "0s 10s 20s 30s", 2},
		{"an error does not count", Readiness, probe(corev1.Probe{FailureThreshold: 1}), "+!", 21 * time.Second, Success, "0s 10s 20s", 2},
		{"alive", Liveness, probe(corev1.Probe{FailureThreshold: 3}), "+", 15 * time.Second, Success, "0s 10s", 0},
		{"dead", Liveness, probe(corev1.Probe{FailureThreshold: 3}), "-", 55 * time.Second, Failure, "0s 10s 20s", 3},
		{"started", Startup, probe(corev1.Probe{FailureThreshold: 3}), "--+", 45 * time.Second, Success, "0s 10s 20s", 2},
		{"not started", Startup, probe(corev1.Probe{FailureThreshold: 2}), "-", 45 * time.Second, Failure, "0s 10s", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{begun: time.Now(), answers: map[*corev1.Probe]string{c.probe: c.answers}}
				var said atomic.Int64
				m := NewManager(Config{
					Checker: s, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
					Changed: func(*Target) {}, Unhealthy: func(*Target, string) { said.Add(1) },
				})
				ctr := &corev1.Container{Name: "c"}
				switch c.kind {
				case Startup:
					ctr.StartupProbe = c.probe
				case Liveness:
					ctr.LivenessProbe = c.probe
				case Readiness:
					ctr.ReadinessProbe = c.probe
				}
				m.Add(t.Context(), &Target{Pod: &corev1.Pod{}, Container: ctr, ContainerID: "id", StartedAt: time.Now()})
				time.Sleep(c.run)
				synctest.Wait()
				r := m.Result("id")
				got := map[Kind]Outcome{Startup: r.Startup, Liveness: r.Live, Readiness: r.Ready}[c.kind]
				if times := strings.Join(s.told(), " "); got != c.want || times != c.times || said.Load() != c.said {
					t.Errorf("outcome %v at %s with %d events, want %v at %s with %d", got, times, said.Load(), c.want, c.times, c.said)
				}
				m.Remove("id")
				n := len(s.told())
				time.Sleep(time.Hour)
				if len(s.told()) != n || m.Len() != 0 {
					t.Error("it went on after Remove")
				}
			})
		})
	}
}

// The other probes wait for the startup probe; a stop keeps readiness only.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &corev1.Container{
			StartupProbe:  &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 30},
			LivenessProbe: &corev1.Probe{PeriodSeconds: 1}, ReadinessProbe: &corev1.Probe{PeriodSeconds: 1},
		}
		s := &script{answers: map[*corev1.Probe]string{c.StartupProbe: "-----+", c.LivenessProbe: "+", c.ReadinessProbe: "+"}}
		m := NewManager(Config{Checker: s, Clock: clock.RealClock{}, Changed: func(*Target) {}, Unhealthy: func(*Target, string) {}})
		m.Add(t.Context(), &Target{Pod: &corev1.Pod{}, Container: c, ContainerID: "id", StartedAt: time.Now()})
		time.Sleep(4500 * time.Millisecond)
		if r := m.Result("id"); r != (Result{}) {
			t.Errorf("before the start: %+v", r)
		}
		time.Sleep(2 * time.Second)
		if r := m.Result("id"); r != (Result{Success, Success, Success}) {
			t.Errorf("after the start: %+v", r)
		}
		m.StopHealth("id")
		s.mu.Lock()
		s.log, s.answers[c.LivenessProbe] = nil, "-"
		s.mu.Unlock()
		time.Sleep(5 * time.Second)
		if r := m.Result("id"); r.Live != Success || len(s.told()) != 5 {
			t.Errorf("stopping: %+v after %d checks", r, len(s.told()))
		}
		m.Remove("id")
		// After a restart of the kubelet a serving container stays ready.
		m.Add(t.Context(), &Target{Pod: &corev1.Pod{}, Container: c, ContainerID: "id", StartedAt: time.Now(), WasReady: true, WasStarted: true})
		if r := m.Result("id"); r != (Result{Success, Success, Success}) {
			t.Errorf("taken over: %+v", r)
		}
		m.Remove("id")
	})
}

func TestChecks(t *testing.T) {
	var agents []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agents = append(agents, r.UserAgent()+"|"+r.Host+"|"+r.Header.Get("X"))
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		case "/away":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/there":
			http.Redirect(w, r, "/bad", http.StatusFound)
		}
	}))
	defer srv.Close()
	port := srv.Listener.Addr().(*net.TCPAddr).Port
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	hs := health.NewServer()
	hs.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(gs, hs)
	go gs.Serve(ln)
	defer gs.Stop()
	gport := int32(ln.Addr().(*net.TCPAddr).Port)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := closed.Addr().(*net.TCPAddr).Port
	closed.Close()

	target := &Target{Pod: &corev1.Pod{}, PodIP: "127.0.0.1", Container: &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}}
	checks := &Checks{Version: "1.36", Exec: func(_ context.Context, _ string, cmd []string, d time.Duration) ([]byte, int, error) {
		if cmd[0] == "slow" {
			return nil, 0, context.DeadlineExceeded
		}
		n, _ := strconv.Atoi(cmd[0])
		return []byte("out"), n, nil
	}}
	get := func(path string, port intstr.IntOrString, h ...corev1.HTTPHeader) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: port, HTTPHeaders: h}}
	}
	service := func(s string) corev1.ProbeHandler {
		return corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: gport, Service: &s}}
	}
	for _, c := range []struct {
		h    corev1.ProbeHandler
		ok   bool
		says string
		err  string
	}{
		{get("/", intstr.FromInt32(int32(port))), true, "", ""},
		{get("no/slash", intstr.FromString("web"), corev1.HTTPHeader{Name: "X", Value: "1"}, corev1.HTTPHeader{Name: "Host", Value: "me"}), true, "", ""},
		{get("/bad?x=1", intstr.FromString("web")), false, "HTTP probe failed with statuscode: 500", ""},
		{get("/there", intstr.FromString("web")), false, "HTTP probe failed with statuscode: 500", ""},
		{get("/away", intstr.FromString("web")), true, "Probe terminated redirects, Response body: ", ""},
		{get("/", intstr.FromInt32(int32(dead))), false, "connection refused", ""},
		{get("/", intstr.FromString("none")), false, "", `couldn't find port: none in container "c"`},
		{corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}}, true, "", ""},
		{corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(dead))}}, false, "connection refused", ""},
		{service(""), true, "", ""},
		{service("sick"), false, `service unhealthy (responded with "NOT_SERVING")`, ""},
		{service("none"), false, "error: health rpc probe failed: ", ""},
		{corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"0"}}}, true, "", ""},
		{corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"1"}}}, false, "out", ""},
		{corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"slow", "x"}}}, false, `command timed out: "slow x" timed out after 1s`, ""},
	} {
		ok, says, err := checks.Check(t.Context(), target, &corev1.Probe{ProbeHandler: c.h, TimeoutSeconds: 1})
		text := ""
		if err != nil {
			text = err.Error()
		}
		if ok != c.ok || !strings.Contains(says, c.says) || text != c.err {
			t.Errorf("%+v: got %v, %q, %v", c.h, ok, says, err)
		}
	}
	if !slices.Contains(agents, "kube-probe/1.36|me|1") {
		t.Errorf("requests %q", agents)
	}
}
