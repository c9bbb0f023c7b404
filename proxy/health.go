package proxy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// healthPorts answers the health checks of load balancers, which ask each
// node whether it has endpoints of a Service with the Local traffic policy.
type healthPorts struct {
	log *slog.Logger
	mu  sync.Mutex
	by  map[string]*healthPort
}

type healthPort struct {
	port  int32
	count int
	srv   *http.Server
}

func newHealthPorts(log *slog.Logger) *healthPorts {
	return &healthPorts{log: log, by: map[string]*healthPort{}}
}

// set opens, changes or (port 0) closes the port of a Service.
func (h *healthPorts) set(key string, port int32, count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	cur := h.by[key]
	if cur != nil && cur.port != port {
		_ = cur.srv.Close()
		delete(h.by, key)
		cur = nil
	}
	if port == 0 {
		return
	}
	if cur != nil {
		cur.count = count
		return
	}
	cur = &healthPort{port: port, count: count}
	cur.srv = &http.Server{Handler: h.handler(key, cur), ReadHeaderTimeout: 5 * time.Second}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		h.log.Error("cannot answer a load balancer's health checks", "service", key, "port", port, "error", err)
		return
	}
	h.by[key] = cur
	go func() { _ = cur.srv.Serve(l) }()
}

func (h *healthPorts) handler(key string, p *healthPort) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		count := p.count
		h.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", fmt.Sprint(count))
		if count == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"service": key, "localEndpoints": count, "serviceProxyHealthy": true})
	})
}

func (h *healthPorts) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, p := range h.by {
		_ = p.srv.Close()
		delete(h.by, key)
	}
}
