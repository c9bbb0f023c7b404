package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/atomicfile"
)

// serverTimeout is how long one server may take to connect before another
// one is tried.
const serverTimeout = 5 * time.Second

// servers are the API servers that an agent knows: the one that it was told
// of, and those that the cluster names as the endpoints of its Service
// "kubernetes", which are kept for the next start. Connections go to the one
// that answered last. It is safe for concurrent use.
type servers struct {
	told string // host:port
	path string // where the others are kept
	log  *slog.Logger
	// dial opens a plain connection.
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu  sync.Mutex
	all []string // host:port; the next to be tried first
}

// openServers reads what the last start kept, which a damaged file only makes
// it forget.
func openServers(told, path string, dial func(ctx context.Context, network, address string) (net.Conn, error), log *slog.Logger) *servers {
	s := &servers{told: told, path: path, dial: dial, log: log}
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &s.all)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warn("the servers of the last start are not known", "error", err)
	}
	// Agents that start together spread over the servers.
	rand.Shuffle(len(s.all), func(i, j int) { s.all[i], s.all[j] = s.all[j], s.all[i] })
	if !slices.Contains(s.all, told) {
		s.all = append(s.all, told)
	}
	return s
}

// connect opens a TLS connection to the first server that takes one; the
// address that it is asked for does not matter. conf must name what every
// server's certificate is for.
func (s *servers) connect(ctx context.Context, conf *tls.Config) (net.Conn, error) {
	s.mu.Lock()
	all := slices.Clone(s.all)
	s.mu.Unlock()
	var problems []error
	for _, address := range all {
		conn, err := s.handshake(ctx, address, conf)
		if err == nil {
			s.prefer(address)
			return conn, nil
		}
		problems = append(problems, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(problems...)
}

// handshake includes TLS, since the kernel takes connections for a server
// that is stuck.
func (s *servers) handshake(ctx context.Context, address string, conf *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	raw, err := s.dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: raw.RemoteAddr(), Err: err}
	}
	return conn, nil
}

// prefer has the next connection go to the server that took this one.
func (s *servers) prefer(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.all, address)
	if i <= 0 {
		return
	}
	s.log.Info("connected to another server", "server", address)
	s.all = slices.Concat(s.all[i:], s.all[:i])
}

// follow keeps up with the cluster's servers until ctx ends.
func (s *servers) follow(ctx context.Context, door client.Interface) error {
	informers := client.NewInformers(door)
	endpoints := client.ScopedInformerFor(informers, client.EndpointSlices, client.Scope{
		Namespace: corev1.NamespaceDefault, Label: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: "kubernetes"}),
	})
	_, err := endpoints.OnChange(func(_, _ *discoveryv1.EndpointSlice) {
		s.learn(serverAddresses(endpoints.List(corev1.NamespaceDefault, labels.Everything())))
	})
	if err != nil {
		return err
	}
	informers.Start(ctx)
	<-ctx.Done()
	return nil
}

// serverAddresses are the ready endpoints' host:port.
func serverAddresses(slices []*discoveryv1.EndpointSlice) []string {
	var out []string
	for _, s := range slices {
		for _, p := range s.Ports {
			if p.Name == nil || *p.Name != "https" || p.Port == nil {
				continue
			}
			for i := range s.Endpoints {
				if e := &s.Endpoints[i]; e.Conditions.Ready == nil || *e.Conditions.Ready {
					for _, a := range e.Addresses {
						out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
					}
				}
			}
		}
	}
	return out
}

// learn takes over the cluster's servers. The one in use stays first, the one
// that the agent was told of stays as well: it may stand for several.
func (s *servers) learn(now []string) {
	if len(now) == 0 {
		return // a cluster that answers has a server
	}
	slices.Sort(now)
	now = slices.Compact(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	next := slices.Clone(now)
	if !slices.Contains(next, s.told) {
		next = append(next, s.told)
	}
	if i := slices.Index(next, s.all[0]); i > 0 {
		next = slices.Concat(next[i:], next[:i])
	}
	if slices.Equal(next, s.all) {
		return
	}
	s.all = next
	raw, err := json.Marshal(now)
	if err == nil {
		err = atomicfile.Write(s.path, raw, 0o600)
	}
	if err != nil {
		s.log.Warn("cannot keep the cluster's servers for the next start", "error", err)
	}
}
