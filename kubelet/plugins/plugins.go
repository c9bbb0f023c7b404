// Package plugins finds the plugins that announce themselves by a socket in a
// folder (plugin registration API v1): sockets flow in, and each plugin is
// handed to whoever handles its type, until its socket is gone.
package plugins

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
)

// Plugin is what a plugin said of itself.
type Plugin struct {
	Name string
	// Endpoint is the socket on which it serves.
	Endpoint string
	Versions []string
}

// Handler takes in the plugins of one type. It is called for several plugins at
// once, but never twice at once for the same socket.
type Handler interface {
	// Register takes a plugin in; the error is told to it.
	Register(ctx context.Context, p Plugin) error
	// Deregister is called when the plugin's socket is gone.
	Deregister(p Plugin)
}

// Config is what a Watcher needs.
type Config struct {
	Dir      string             // plugins_registry
	Handlers map[string]Handler // by type, such as "DRAPlugin"
	Log      *slog.Logger
	Clock    clock.Clock
}

// callTimeout bounds a call to a plugin; a plugin that fails is asked again
// after retryFirst, then twice as long each time up to retryMost.
const (
	callTimeout = 10 * time.Second
	retryFirst  = 500 * time.Millisecond
	retryMost   = 2 * time.Minute
)

// Watcher follows the folder.
type Watcher struct {
	cfg   Config
	known map[string]*known // by socket; of the goroutine of Run
	// answers are what became of registrations, each of which is a goroutine of
	// its own: a plugin that hangs holds up no other.
	answers chan answer
}

type known struct {
	kind       string
	plugin     Plugin
	registered bool
	asking     context.CancelFunc // ends the registration under way, nil if none is
	outdated   bool               // the socket was made anew, or went, meanwhile
	retry      time.Time
	pause      time.Duration
}

// answer is what became of a registration.
type answer struct {
	socket string
	kind   string
	plugin Plugin
	err    error
}

// New makes a watcher; Run does the work.
func New(cfg Config) *Watcher {
	return &Watcher{cfg: cfg, known: map[string]*known{}, answers: make(chan answer)}
}

// Run follows the folder until ctx ends, and returns when no handler is called
// any more. Nothing is polled.
func (w *Watcher) Run(ctx context.Context) error {
	if err := os.MkdirAll(w.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("folder of plugins: %w", err)
	}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the folder of plugins: %w", err)
	}
	defer n.Close()
	defer w.drain()
	for {
		sockets := w.scan(n)
		w.compare(ctx, sockets)
		var retry <-chan time.Time
		stop := func() {}
		if next := w.next(); next >= 0 {
			t := w.cfg.Clock.NewTimer(next)
			retry, stop = t.C(), func() { t.Stop() }
		}
		select {
		case <-ctx.Done():
			stop()
			return nil
		case e := <-n.Events:
			if e.Op.Has(fsnotify.Create) {
				w.renew(e.Name)
			}
		case err := <-n.Errors:
			w.cfg.Log.Warn("watching the folder of plugins", "error", err)
		case a := <-w.answers:
			w.take(ctx, a)
		case <-retry:
		}
		stop()
	}
}

// drain waits for the registrations under way, whose context has ended.
func (w *Watcher) drain() {
	for _, k := range w.known {
		if k.asking != nil {
			<-w.answers
		}
	}
}

// scan lists the sockets, and watches the folder with all those in it.
func (w *Watcher) scan(n *fsnotify.Watcher) map[string]bool {
	out := map[string]bool{}
	_ = filepath.WalkDir(w.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case strings.HasPrefix(d.Name(), ".") && path != w.cfg.Dir:
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.IsDir():
			if err := n.Add(path); err != nil {
				w.cfg.Log.Warn("watching the folder of plugins", "folder", path, "error", err)
			}
		case d.Type()&fs.ModeSocket != 0:
			out[path] = true
		}
		return nil
	})
	return out
}

// renew has a socket that was made anew registered again.
func (w *Watcher) renew(socket string) {
	k := w.known[socket]
	switch {
	case k == nil:
	case k.asking != nil:
		k.outdate()
	case k.registered:
		w.cfg.Handlers[k.kind].Deregister(k.plugin)
		delete(w.known, socket)
	}
}

// outdate ends a registration under way, of whose result nothing is kept.
func (k *known) outdate() {
	k.outdated = true
	k.asking()
}

// compare registers what is new or due again, and lets go what is gone.
func (w *Watcher) compare(ctx context.Context, sockets map[string]bool) {
	for socket, k := range w.known {
		if sockets[socket] {
			continue
		}
		if k.asking != nil {
			k.outdate()
			continue
		}
		if k.registered {
			w.cfg.Log.Info("a plugin is gone", "type", k.kind, "name", k.plugin.Name)
			w.cfg.Handlers[k.kind].Deregister(k.plugin)
		}
		delete(w.known, socket)
	}
	for socket := range sockets {
		k := w.known[socket]
		if k == nil {
			k = &known{}
			w.known[socket] = k
		}
		if k.registered || k.asking != nil || w.cfg.Clock.Now().Before(k.retry) {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, callTimeout)
		k.asking = cancel
		go func() {
			defer cancel()
			kind, plugin, err := w.register(asking, socket)
			w.answers <- answer{socket, kind, plugin, err}
		}()
	}
}

// take keeps what became of a registration.
func (w *Watcher) take(ctx context.Context, a answer) {
	k := w.known[a.socket]
	switch {
	case k.outdated:
		if a.err == nil {
			w.cfg.Handlers[a.kind].Deregister(a.plugin)
		}
		delete(w.known, a.socket) // what is there now is asked anew
	case a.err != nil:
		k.asking = nil
		k.pause = min(max(2*k.pause, retryFirst), retryMost)
		k.retry = w.cfg.Clock.Now().Add(k.pause)
		if ctx.Err() == nil {
			w.cfg.Log.Warn("a plugin could not be registered", "socket", a.socket, "error", a.err)
		}
	default:
		*k = known{kind: a.kind, plugin: a.plugin, registered: true}
		w.cfg.Log.Info("a plugin registered", "type", a.kind, "name", a.plugin.Name)
	}
}

// next is how long until a plugin is to be asked again, negative for never.
func (w *Watcher) next() time.Duration {
	out := time.Duration(-1)
	for _, k := range w.known {
		if k.registered || k.asking != nil {
			continue
		}
		if d := max(k.retry.Sub(w.cfg.Clock.Now()), 0); out < 0 || d < out {
			out = d
		}
	}
	return out
}

// register asks a plugin who it is, hands it on, and tells it how that went. An
// error says that it is not registered.
func (w *Watcher) register(ctx context.Context, socket string) (kind string, p Plugin, err error) {
	conn, err := Dial(socket)
	if err != nil {
		return "", Plugin{}, err
	}
	defer conn.Close()
	c := registerapi.NewRegistrationClient(conn)
	info, err := c.GetInfo(ctx, &registerapi.InfoRequest{})
	if err != nil {
		return "", Plugin{}, fmt.Errorf("ask it who it is: %w", err)
	}
	kind, p = info.Type, Plugin{Name: info.Name, Endpoint: info.Endpoint, Versions: info.SupportedVersions}
	if p.Endpoint == "" {
		p.Endpoint = socket
	}
	h := w.cfg.Handlers[kind]
	if h == nil {
		err = fmt.Errorf("no handler registered for plugin type: %s at socket %s", kind, socket)
	} else {
		err = h.Register(ctx, p)
	}
	status := &registerapi.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = err.Error()
	}
	if _, told := c.NotifyRegistrationStatus(ctx, status); told != nil && err == nil {
		h.Deregister(p)
		return kind, p, fmt.Errorf("tell it that it is registered: %w", told)
	}
	return kind, p, err
}

// Dial makes a connection to a plugin's socket; it is opened with the first
// call.
func Dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///plugin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
}
