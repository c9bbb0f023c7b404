package apiserver

import (
	"io"
	"net/http"
	"sync"

	"github.com/coxswain/cox/client"
)

// isElsewhere says that another API server serves what a component asks for.
func (s *Server) isElsewhere(req *client.Request) bool {
	agg := s.aggregator.Load()
	return agg != nil && (*agg).Handler(req.Resource.GroupVersion()) != nil
}

// relay is the local door to what other API servers serve: the request takes
// the way of an HTTP request from behind authentication on, in memory.
func (s *Server) relay(user client.User) client.Interface { return client.Via(&relay{s, user}) }

type relay struct {
	srv  *Server
	user client.User
}

// RoundTrip passes a request on. The answer's body is written while it is
// read, so that a watch flows; closing it ends the request.
func (t *relay) RoundTrip(r *http.Request) (*http.Response, error) {
	in, out := io.Pipe()
	w := &relayWriter{header: http.Header{}, body: out, begun: make(chan struct{})}
	f := &front{id: newUID(), uri: r.URL.RequestURI(), userAgent: "cox", received: t.srv.now()}
	go func() {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				t.srv.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p)
			}
			w.WriteHeader(http.StatusInternalServerError) // unless there is an answer
			_ = out.Close()
		}()
		if r.Body == nil {
			r.Body = http.NoBody
		}
		if !t.srv.elsewhere(w, r, t.user, f) {
			http.Error(w, "404 page not found", http.StatusNotFound) // it has just gone
		}
	}()
	select {
	case <-w.begun:
		return &http.Response{
			StatusCode: w.code, Status: http.StatusText(w.code), Header: w.sent, Body: in, ContentLength: -1,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		}, nil
	case <-r.Context().Done():
		_ = in.Close()
		return nil, r.Context().Err()
	}
}

// relayWriter is the server's end of an answer in memory.
type relayWriter struct {
	header, sent http.Header
	code         int
	body         *io.PipeWriter
	once         sync.Once
	begun        chan struct{} // closed when code and sent are there
}

func (w *relayWriter) Header() http.Header { return w.header }

func (w *relayWriter) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.begun)
	})
}

func (w *relayWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// Flush is what a pipe does by itself.
func (w *relayWriter) Flush() { w.WriteHeader(http.StatusOK) }
