package dns

import (
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the forwarder.
const (
	askTimeout  = 2 * time.Second
	maxCached   = 2048
	maxCacheTTL = 30 * time.Second
	maxNoTTL    = 5 * time.Second
	maxAsking   = 512 // questions under way at once
)

// forwarder asks the machine's own resolvers and remembers the answers for a
// short time. It is safe for concurrent use.
type forwarder struct {
	path  string
	own   map[string]bool // addresses of this server: never ask ourselves
	log   *slog.Logger
	slots chan struct{}

	mu      sync.Mutex
	stamp   time.Time
	checked time.Time
	servers []string
	cache   map[dns.Question]cached
}

type cached struct {
	msg   *dns.Msg
	until time.Time
}

func newForwarder(path string, own map[string]bool, log *slog.Logger) *forwarder {
	return &forwarder{path: path, own: own, log: log, slots: make(chan struct{}, maxAsking), cache: map[dns.Question]cached{}}
}

// upstreams returns the resolvers, reading the file again when it changed.
func (f *forwarder) upstreams() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.checked) < 5*time.Second {
		return f.servers
	}
	f.checked = now
	info, err := os.Stat(f.path)
	if err != nil || info.ModTime().Equal(f.stamp) {
		return f.servers
	}
	conf, err := dns.ClientConfigFromFile(f.path)
	if err != nil {
		f.log.Warn("DNS: cannot read the resolver configuration", "file", f.path, "error", err)
		return f.servers
	}
	f.stamp, f.servers = info.ModTime(), nil
	for _, s := range conf.Servers {
		if addr := net.JoinHostPort(s, conf.Port); !f.own[addr] {
			f.servers = append(f.servers, addr)
		}
	}
	return f.servers
}

// ask answers a question about a name that is not the cluster's.
func (f *forwarder) ask(req *dns.Msg) *dns.Msg {
	key := req.Question[0]
	key.Name = strings.ToLower(key.Name)
	if m := f.known(key); m != nil {
		return adopt(m, req)
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return failure(req, dns.RcodeServerFailure)
	}
	q := new(dns.Msg)
	q.SetQuestion(key.Name, key.Qtype)
	q.Question[0].Qclass = key.Qclass
	q.SetEdns0(1232, false)
	for _, server := range f.upstreams() {
		m, err := exchange(q, server)
		if err != nil {
			f.log.Debug("DNS: resolver did not answer", "server", server, "error", err)
			continue
		}
		if m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
			continue
		}
		f.remember(key, m)
		return adopt(m, req)
	}
	return failure(req, dns.RcodeServerFailure)
}

// exchange asks over UDP, and over TCP when the answer was cut short.
func exchange(q *dns.Msg, server string) (*dns.Msg, error) {
	c := &dns.Client{Net: "udp", Timeout: askTimeout, UDPSize: 1232}
	m, _, err := c.Exchange(q, server)
	if err != nil {
		return nil, err
	}
	if m.Truncated {
		c.Net = "tcp"
		if whole, _, err := c.Exchange(q, server); err == nil {
			return whole, nil
		}
	}
	return m, nil
}

// adopt makes an answer to req from one to the same question.
func adopt(m, req *dns.Msg) *dns.Msg {
	out := m.Copy()
	out.Id, out.Question = req.Id, req.Question
	out.Response, out.RecursionAvailable, out.Authoritative = true, true, false
	kept := out.Extra[:0]
	for _, rr := range out.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	out.Extra = kept
	return out
}

func (f *forwarder) known(key dns.Question) *dns.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.cache[key]
	if !ok {
		return nil
	}
	if !time.Now().Before(c.until) {
		delete(f.cache, key)
		return nil
	}
	return c.msg
}

func (f *forwarder) remember(key dns.Question, m *dns.Msg) {
	keep := maxCacheTTL
	if len(m.Answer) == 0 {
		keep = maxNoTTL
	}
	for _, list := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range list {
			keep = min(keep, time.Duration(rr.Header().Ttl)*time.Second)
		}
	}
	if keep <= 0 || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.cache) >= maxCached {
		for k := range f.cache { // any: the cache only takes the edge off bursts
			delete(f.cache, k)
			if len(f.cache) < maxCached*3/4 {
				break
			}
		}
	}
	f.cache[key] = cached{m.Copy(), time.Now().Add(keep)}
}
