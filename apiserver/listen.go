package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/internal/batched"
)

// Listening is the HTTP door, open on a listener.
type Listening struct {
	srv      *Server
	http     *http.Server
	listener *listener
	done     chan struct{} // closed when the listener has ended
}

// Listen opens the HTTP door on l, with TLS unless cfg is nil. It returns at
// once; l is the door's from then on.
func (s *Server) Listen(l net.Listener, cfg *tls.Config) *Listening {
	g := &Listening{srv: s, listener: &listener{Listener: l, srv: s}, done: make(chan struct{}), http: &http.Server{
		Handler: s, TLSConfig: cfg,
		ReadHeaderTimeout: 32 * time.Second, IdleTimeout: 90 * time.Second,
		ErrorLog: log.New(&handshakes{slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), s.metrics.gates.handshakes}, "", 0),
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 250},
	}}
	go func() {
		defer close(g.done)
		serve := func() error { return g.http.Serve(g.listener) }
		if cfg != nil {
			serve = func() error { return g.http.ServeTLS(g.listener, "", "") }
		}
		if err := serve(); s.away.Err() == nil {
			s.log.Error("the API server's listener ended", "error", err)
		}
	}()
	return g
}

// handshakes is where net/http's log goes, which alone tells that a connection
// never became one of TLS.
type handshakes struct {
	log  *log.Logger
	lost prometheus.Counter
}

// Write logs a line, and counts it if it is of such a connection.
func (h *handshakes) Write(line []byte) (int, error) {
	if bytes.HasPrefix(line, []byte("http: TLS handshake error from ")) {
		h.lost.Inc()
	}
	h.log.Print(string(line))
	return len(line), nil
}

// A door that closes waits until no HTTP/1 request has come for a moment, and
// for a while at most.
const (
	quietFor  = 100 * time.Millisecond
	lingerFor = 2 * time.Second
)

// Close closes the door so that no request is lost: readyz fails first; HTTP/1
// clients are told to go elsewhere with their next request, and HTTP/2 clients
// at once; watches end as if their time were over; what is being carried out
// is finished. What is not when ctx ends is cut off, and reported.
func (g *Listening) Close(ctx context.Context) error {
	g.srv.leave()
	seen := int64(-1)
	linger(ctx, quietFor, func() bool {
		before := seen
		seen = g.srv.late.Load()
		return seen == before
	})
	_ = g.listener.Close()
	// net/http drops what it reads on a connection once it shuts down: let
	// those that were accepted meanwhile have their request.
	linger(ctx, quietFor/10, func() bool { return g.listener.open.Load() == 0 })
	err := g.http.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("requests were cut off: %w", err)
		_ = g.http.Close()
	}
	<-g.done
	return err
}

// linger waits until enough says so, which it asks again and again.
func linger(ctx context.Context, every time.Duration, enough func() bool) {
	for begin := time.Now(); time.Since(begin) < lingerFor && ctx.Err() == nil && !enough(); {
		select {
		case <-time.After(every):
		case <-ctx.Done():
		}
	}
}

// listener counts the connections that are accepted while the door closes.
type listener struct {
	net.Listener
	srv  *Server
	open atomic.Int64
	once sync.Once
	err  error // of closing it
}

// Close ends the listener; to do so again, as net/http does if it is told to
// shut down before it has seen the first time, is no error.
func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c = batched.Conn(c)
	if l.srv.away.Err() == nil {
		return c, nil
	}
	l.open.Add(1)
	return &lateConn{Conn: c, ended: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

type lateConn struct {
	net.Conn
	ended func()
}

// Close ends the connection.
func (c *lateConn) Close() error {
	c.ended()
	return c.Conn.Close()
}

// leaving tells the client of an HTTP/1 connection not to use it again.
func (s *Server) leaving(h http.Header, r *http.Request) {
	if r.ProtoMajor == 1 && s.away.Err() != nil {
		s.late.Add(1)
		h["Connection"] = []string{"close"}
	}
}

// lastWord is how long it may take to tell a client that its time is over.
const lastWord = 5 * time.Second

// stuck ends what waits for a client that sends or reads too slowly. An
// answer's writer must not be touched once the request is over, hence the lock.
type stuck struct {
	w    http.ResponseWriter
	more time.Duration // for what is yet to be written
	mu   sync.Mutex
	over bool
}

func (s *stuck) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	rc, now := http.NewResponseController(s.w), time.Now()
	_ = rc.SetReadDeadline(now)
	_ = rc.SetWriteDeadline(now.Add(s.more))
}

func (s *stuck) finish() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
}

// unstick keeps a client that sends or reads too slowly from holding a request
// for longer than its time: at ctx's deadline what waits for the client fails.
// (Whose client has gone does not wait for it.) done is called before the
// request's end.
func unstick(ctx context.Context, w http.ResponseWriter) (done func()) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return func() {}
	}
	s := &stuck{w: w, more: lastWord}
	// Not context.AfterFunc, which costs every request more than this.
	t := time.AfterFunc(time.Until(deadline), func() {
		<-ctx.Done() // whoever looks finds that as the cause
		s.end()
	})
	return func() {
		if !t.Stop() {
			s.finish()
		}
	}
}

// patience is how long a watcher may take to read what is sent to it.
const patience = time.Minute

// stickiness ends a stream whose client does not read. Its methods are called
// by the stream's goroutine.
//
// The timer, once set, runs on while writes come and go: to set and stop it for
// each would cost more than to look now and then whether one is stuck.
type stickiness struct {
	stuck stuck
	timer *time.Timer

	mu    sync.Mutex
	since time.Time // when the present write began; zero: there is none
	armed bool      // the timer will look
}

// begin is called before a write and a flush, end after; it returns the time.
func (s *stickiness) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
	switch {
	case s.armed:
		return
	case s.timer == nil:
		s.timer = time.AfterFunc(patience, s.look)
	default:
		s.timer.Reset(patience)
	}
	s.armed = true
}

func (s *stickiness) end() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Time{}
	return time.Now()
}

// look ends the stream if a write has taken longer than patience.
func (s *stickiness) look() {
	s.mu.Lock()
	s.armed = !s.since.IsZero()
	left := patience - time.Since(s.since)
	if s.armed && left > 0 {
		s.timer.Reset(left)
	}
	stuck := s.armed && left <= 0
	s.mu.Unlock()
	if stuck {
		s.stuck.end()
	}
}

// finish is called before the request's end.
func (s *stickiness) finish() {
	if s.timer != nil && !s.timer.Stop() {
		s.stuck.finish()
	}
}

// untilAway is the context of a stream, which ends when the door closes: else
// it would keep the door from doing so.
func (s *Server) untilAway(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.away, cancel)
	return ctx, func() { stop(); cancel() }
}
