package plugins

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
)

// announced is a plugin that waits for hang, if there is one, before it says
// who it is.
type announced struct {
	registerapi.UnimplementedRegistrationServer
	name string
	hang <-chan struct{}
	told chan *registerapi.RegistrationStatus
	gone atomic.Bool // nobody waited any longer
}

func (a *announced) GetInfo(ctx context.Context, _ *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	if a.hang != nil {
		select {
		case <-a.hang:
		case <-ctx.Done():
			a.gone.Store(true)
			return nil, ctx.Err()
		}
	}
	return &registerapi.PluginInfo{Type: "T", Name: a.name, SupportedVersions: []string{"v1"}}, nil
}

func (a *announced) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	a.told <- s
	return &registerapi.RegistrationStatusResponse{}, nil
}

// announce serves a plugin on a socket until stop is called, which removes the
// socket.
func announce(t *testing.T, socket, name string, hang <-chan struct{}) (p *announced, stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p = &announced{name: name, hang: hang, told: make(chan *registerapi.RegistrationStatus, 10)}
	s := grpc.NewServer()
	registerapi.RegisterRegistrationServer(s, p)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return p, s.Stop
}

// handler remembers what it was told, and hangs on plugins called "stuck".
type handler struct {
	mu      sync.Mutex
	list    []string
	changed chan struct{}
	stuck   chan struct{} // gets a value when a "stuck" one hangs
	gone    atomic.Bool   // it does not any more
}

func newHandler() *handler {
	return &handler{changed: make(chan struct{}, 100), stuck: make(chan struct{}, 10)}
}

func (h *handler) add(what string) {
	h.mu.Lock()
	h.list = append(h.list, what)
	h.mu.Unlock()
	h.changed <- struct{}{}
}

func (h *handler) Register(ctx context.Context, p Plugin) error {
	if p.Name == "stuck" {
		h.stuck <- struct{}{}
		<-ctx.Done()
		h.gone.Store(true)
		return ctx.Err()
	}
	h.add("+" + p.Name)
	return nil
}

func (h *handler) Deregister(p Plugin) { h.add("-" + p.Name) }

// until waits until the handler was told something.
func (h *handler) until(t *testing.T, what string) {
	t.Helper()
	for {
		h.mu.Lock()
		done := slices.Contains(h.list, what)
		h.mu.Unlock()
		if done {
			return
		}
		select {
		case <-h.changed:
		case <-t.Context().Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// watched runs a watcher of a new folder.
func watched(t *testing.T) (dir string, h *handler) {
	dir, h = t.TempDir(), newHandler()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	w := New(Config{Dir: dir, Handlers: map[string]Handler{"T": h}, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return dir, h
}

// A plugin that does not say who it is, and one that its handler does not get
// done with, hold up no other, whichever was found first.
func TestHungPluginHoldsUpNoOther(t *testing.T) {
	dir, h := watched(t)
	never := make(chan struct{})
	var silent []*announced
	for _, n := range []string{"a", "z"} {
		p, _ := announce(t, filepath.Join(dir, n+"-silent.sock"), "silent", never)
		silent = append(silent, p)
		announce(t, filepath.Join(dir, n+"-stuck.sock"), "stuck", nil)
	}
	<-h.stuck
	<-h.stuck
	p, stop := announce(t, filepath.Join(dir, "m.sock"), "fine", nil)
	if s := <-p.told; !s.PluginRegistered {
		t.Errorf("told %v", s)
	}
	h.until(t, "+fine")
	if h.gone.Load() || slices.ContainsFunc(silent, func(p *announced) bool { return p.gone.Load() }) {
		t.Error("a plugin was registered only when others had been given up")
	}
	stop()
	h.until(t, "-fine")
}

// A socket that is made anew while who was behind it is still asked is asked
// again, and nothing of the first remains.
func TestSocketMadeAnewMeanwhile(t *testing.T) {
	dir, h := watched(t)
	socket := filepath.Join(dir, "p.sock")
	_, stop := announce(t, socket, "stuck", nil)
	<-h.stuck
	stop()
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	p, _ := announce(t, socket, "second", nil)
	if s := <-p.told; !s.PluginRegistered {
		t.Errorf("told %v", s)
	}
	h.until(t, "+second")
	if slices.Contains(h.list, "+stuck") {
		t.Error(h.list)
	}
}
