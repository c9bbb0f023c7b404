package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Config is what a server needs.
type Config struct {
	// Listen are the addresses (host:port) served, over UDP and TCP.
	Listen []string
	// Domain is the cluster domain, such as cluster.local.
	Domain  string
	Cluster Cluster
	// ResolvConf is the file that names the servers for all other names; it
	// is read again when it changes.
	ResolvConf string
	Log        *slog.Logger
}

// Server answers DNS questions. Make one with New, then Run it once.
type Server struct {
	cfg     Config
	zone    zone
	forward *forwarder
}

// New makes a server; nothing is listened on yet.
func New(cfg Config) *Server {
	domain := dns.Fqdn(strings.ToLower(cfg.Domain))
	own := map[string]bool{}
	for _, l := range cfg.Listen {
		own[l] = true
	}
	return &Server{cfg: cfg, zone: zone{domain: domain, cluster: cfg.Cluster}, forward: newForwarder(cfg.ResolvConf, own, cfg.Log)}
}

// packetWait is how long the wait for one UDP packet lasts before it begins
// anew: a short one only wakes the machine.
const packetWait = 24 * time.Hour

// Run serves until ctx ends. An address that cannot be listened on is an
// error that names it.
func (s *Server) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	var servers []*dns.Server
	for _, addr := range s.cfg.Listen {
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return errors.Join(fmt.Errorf("DNS: listen on %s (UDP): %w", addr, err), shutdown(servers))
		}
		servers = append(servers, &dns.Server{PacketConn: pc, Handler: s, UDPSize: 4096, ReadTimeout: packetWait})
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return errors.Join(fmt.Errorf("DNS: listen on %s (TCP): %w", addr, err), pc.Close(), shutdown(servers[:len(servers)-1]))
		}
		servers = append(servers, &dns.Server{Listener: l, Handler: s, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxTCPQueries: 1024})
	}
	for _, srv := range servers {
		go func() {
			if err := srv.ActivateAndServe(); err != nil && ctx.Err() == nil {
				select {
				case failed <- err:
				default:
				}
			}
		}()
	}
	select {
	case <-ctx.Done():
		_ = shutdown(servers)
		return ctx.Err()
	case err := <-failed:
		_ = shutdown(servers)
		return fmt.Errorf("DNS: %w", err)
	}
}

func shutdown(servers []*dns.Server) error {
	for _, srv := range servers {
		if srv.PacketConn != nil {
			_ = srv.PacketConn.Close()
		}
		if srv.Listener != nil {
			_ = srv.Listener.Close()
		}
	}
	return nil
}

// ServeDNS answers one message.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("DNS: a question made the server panic", "panic", p)
			s.reply(w, req, failure(req, dns.RcodeServerFailure))
		}
	}()
	if len(req.Question) != 1 || req.Opcode != dns.OpcodeQuery {
		s.reply(w, req, failure(req, dns.RcodeNotImplemented))
		return
	}
	s.reply(w, req, s.resolve(req))
}

func failure(req *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(req, code)
	return m
}

// resolve answers from the cluster, or asks the outside.
func (s *Server) resolve(req *dns.Msg) *dns.Msg {
	q := req.Question[0]
	name := strings.ToLower(q.Name)
	ours := dns.IsSubDomain(s.zone.domain, name) && q.Qclass == dns.ClassINET
	var a answer
	if ours {
		a = s.zone.lookup(name, q.Qtype)
	} else if ip, ok := fromReverse(name); ok {
		if a = s.zone.reverse(name, q.Qtype, ip); !a.found {
			return s.forward.ask(req)
		}
	} else {
		return s.forward.ask(req)
	}
	m := new(dns.Msg)
	m.SetReply(req)
	m.Authoritative, m.RecursionAvailable = true, true
	m.Answer, m.Extra = a.records, a.extra
	shuffle(m.Answer)
	switch {
	case a.alias != "" && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA):
		m.Answer = append(m.Answer, s.chase(a.alias, q.Qtype)...)
	case !a.found:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{s.zone.soa()}
	case len(a.records) == 0:
		m.Ns = []dns.RR{s.zone.soa()}
	}
	// Names keep the spelling of the question (0x20 mixing).
	for _, rr := range m.Answer {
		if rr.Header().Name == name {
			rr.Header().Name = q.Name
		}
	}
	return m
}

// chase resolves the target of an ExternalName, within the cluster or outside.
func (s *Server) chase(target string, qtype uint16) []dns.RR {
	for range 8 {
		if !dns.IsSubDomain(s.zone.domain, target) {
			m := new(dns.Msg)
			m.SetQuestion(target, qtype)
			return s.forward.ask(m).Answer
		}
		a := s.zone.lookup(target, qtype)
		if a.alias == "" {
			return a.records
		}
		target = a.alias
	}
	return nil
}

func shuffle(rrs []dns.RR) {
	rand.Shuffle(len(rrs), func(i, j int) { rrs[i], rrs[j] = rrs[j], rrs[i] })
}

// reply sends m, cut to what the asker can take.
func (s *Server) reply(w dns.ResponseWriter, req, m *dns.Msg) {
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), 4096)
		if m.IsEdns0() == nil {
			m.SetEdns0(uint16(size), false)
		}
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
		size = dns.MaxMsgSize
	}
	m.Compress = true
	m.Truncate(size)
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Log.Debug("DNS: answer not sent", "error", err)
	}
}
