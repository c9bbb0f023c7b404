package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// world is a Cluster written down.
type world struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

func (w *world) Service(ns, name string) *corev1.Service {
	for _, s := range w.services {
		if s.Namespace == ns && s.Name == name {
			return s
		}
	}
	return nil
}
func (w *world) Slices(ns, name string) (out []*discoveryv1.EndpointSlice) {
	for _, s := range w.slices {
		if s.Namespace == ns && s.Labels[discoveryv1.LabelServiceName] == name {
			out = append(out, s)
		}
	}
	return out
}
func (w *world) NamespaceExists(name string) bool { return name == "default" }
func (w *world) ServiceByIP(ip netip.Addr) *corev1.Service {
	for _, s := range w.services {
		if slices.Contains(s.Spec.ClusterIPs, ip.String()) {
			return s
		}
	}
	return nil
}
func (w *world) SlicesByIP(ip netip.Addr) (out []*discoveryv1.EndpointSlice) {
	for _, s := range w.slices {
		for _, e := range s.Endpoints {
			if slices.Contains(e.Addresses, ip.String()) {
				out = append(out, s)
			}
		}
	}
	return out
}

func testWorld() *world {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	return &world{
		services: []*corev1.Service{
			{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.9", ClusterIPs: []string{"10.43.0.9", "fd00::9"},
				Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: "TCP"}, {Name: "dns", Port: 53, Protocol: "UDP"}}}},
			{ObjectMeta: meta("db"), Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}},
			{ObjectMeta: meta("out"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "elsewhere.test"}},
			{ObjectMeta: meta("in"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}},
			{ObjectMeta: meta("empty"), Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}},
		},
		slices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("sql"), Port: ptr.To[int32](5432), Protocol: ptr.To(corev1.ProtocolTCP)}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.42.0.5"}, Hostname: ptr.To("db-0")},
				{Addresses: []string{"10.42.0.6"}},
				{Addresses: []string{"10.42.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
			},
		}},
	}
}

// serve runs a server on a free loopback port and returns its address.
func serve(t *testing.T, c Cluster, upstream string) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := pc.LocalAddr().String()
	pc.Close()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	host, port, _ := net.SplitHostPort(upstream)
	if err := os.WriteFile(conf, []byte("nameserver "+host+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(Config{Listen: []string{addr}, Domain: "cluster.local", Cluster: c, ResolvConf: conf, Log: slog.New(slog.DiscardHandler)})
	if port != "" {
		// resolv.conf cannot name a port.
		s.forward.servers, s.forward.checked = []string{upstream}, time.Now().Add(time.Hour)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr
		}
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
	}
}

// outside is a resolver that knows one name.
func outside(t *testing.T) string {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Name == "elsewhere.test." && r.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR("elsewhere.test. 60 IN A 192.0.2.7")
			m.Answer = append(m.Answer, rr)
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { pc.Close() })
	return pc.LocalAddr().String()
}

func TestQuestions(t *testing.T) {
	addr := serve(t, testWorld(), outside(t))
	for _, c := range []struct{ name, qtype, want string }{
		{"web.default.svc.cluster.local.", "A", "A 10.43.0.9"},
		{"WeB.default.svc.cluster.local.", "A", "A 10.43.0.9"},
		{"web.default.svc.cluster.local.", "AAAA", "AAAA fd00::9"},
		{"web.default.svc.cluster.local.", "MX", ""},
		{"web.default.svc.cluster.local.", "SRV", "SRV 0 50 53 web.default.svc.cluster.local. SRV 0 50 80 web.default.svc.cluster.local."},
		{"_http._tcp.web.default.svc.cluster.local.", "SRV", "SRV 0 100 80 web.default.svc.cluster.local."},
		{"_http._udp.web.default.svc.cluster.local.", "SRV", "NXDOMAIN"},
		{"db.default.svc.cluster.local.", "A", "A 10.42.0.5 A 10.42.0.6"},
		{"db-0.db.default.svc.cluster.local.", "A", "A 10.42.0.5"},
		{"10-42-0-6.db.default.svc.cluster.local.", "A", "A 10.42.0.6"},
		{"10-42-0-7.db.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"_sql._tcp.db.default.svc.cluster.local.", "SRV", "SRV 0 50 5432 10-42-0-6.db.default.svc.cluster.local. SRV 0 50 5432 db-0.db.default.svc.cluster.local."},
		{"empty.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"out.default.svc.cluster.local.", "A", "A 192.0.2.7 CNAME elsewhere.test."},
		{"in.default.svc.cluster.local.", "A", "A 10.43.0.9 CNAME web.default.svc.cluster.local."},
		{"10-42-0-99.default.pod.cluster.local.", "A", "A 10.42.0.99"},
		{"10-42-0-99.missing.pod.cluster.local.", "A", "NXDOMAIN"},
		{"none.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"default.svc.cluster.local.", "A", ""},
		{"dns-version.cluster.local.", "TXT", `TXT "1.1.0"`},
		{"9.0.43.10.in-addr.arpa.", "PTR", "PTR web.default.svc.cluster.local."},
		{"5.0.42.10.in-addr.arpa.", "PTR", "PTR db-0.db.default.svc.cluster.local."},
		{"1.2.0.192.in-addr.arpa.", "PTR", "NXDOMAIN"},
		{"elsewhere.test.", "A", "A 192.0.2.7"},
		{"nowhere.test.", "A", "NXDOMAIN"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := new(dns.Msg)
			m.SetQuestion(c.name, dns.StringToType[c.qtype])
			r, _, err := (&dns.Client{Net: network}).Exchange(m, addr)
			if err != nil {
				t.Errorf("%s %s over %s: %v", c.name, c.qtype, network, err)
				continue
			}
			var got []string
			for _, rr := range r.Answer {
				got = append(got, strings.Join(strings.Fields(rr.String())[3:], " "))
			}
			sort.Strings(got)
			text := strings.Join(got, " ")
			if r.Rcode != dns.RcodeSuccess {
				text = dns.RcodeToString[r.Rcode]
			}
			if text != c.want {
				t.Errorf("%s %s over %s: %q, want %q", c.name, c.qtype, network, text, c.want)
			}
		}
	}
}

func TestLongAnswersAreCut(t *testing.T) {
	w := testWorld()
	for i := range 100 {
		w.slices[0].Endpoints = append(w.slices[0].Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.1.%d", i)}})
	}
	addr := serve(t, w, "127.0.0.1:9")
	m := new(dns.Msg)
	m.SetQuestion("db.default.svc.cluster.local.", dns.TypeA)
	r, _, err := (&dns.Client{Net: "udp"}).Exchange(m, addr)
	if err != nil || !r.Truncated {
		t.Fatalf("102 records over UDP without EDNS: truncated %v, %v", r != nil && r.Truncated, err)
	}
	r, _, err = (&dns.Client{Net: "tcp"}).Exchange(m, addr)
	if err != nil || len(r.Answer) != 102 {
		t.Fatalf("over TCP: %d records, %v", len(r.Answer), err)
	}
}

// FuzzMessage: any message is answered or dropped, and every answer can be sent.
func FuzzMessage(f *testing.F) {
	z := zone{domain: "cluster.local.", cluster: testWorld()}
	log := slog.New(slog.DiscardHandler)
	s := &Server{cfg: Config{Log: log}, zone: z, forward: newForwarder(filepath.Join(f.TempDir(), "none"), nil, log)}
	for _, name := range []string{"web.default.svc.cluster.local.", "db.default.svc.cluster.local.", "in.default.svc.cluster.local.", "9.0.43.10.in-addr.arpa."} {
		m := new(dns.Msg).SetQuestion(name, dns.TypeANY)
		m.SetEdns0(1232, true)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(dns.Msg)
		if req.Unpack(b) != nil || len(req.Question) != 1 {
			return
		}
		if _, reverse := fromReverse(strings.ToLower(req.Question[0].Name)); !dns.IsSubDomain("cluster.local.", req.Question[0].Name) || req.Question[0].Qclass != dns.ClassINET || reverse {
			return // for the outside
		}
		m := s.resolve(req)
		if m.Id != req.Id || !m.Response {
			t.Errorf("%v answers %v", m, req)
		}
		if _, err := m.Pack(); err != nil {
			t.Errorf("%v: %v", m, err)
		}
	})
}

func FuzzLookup(f *testing.F) {
	z := zone{domain: "cluster.local.", cluster: testWorld()}
	f.Add("_http._tcp.web.default.svc.cluster.local.", uint16(dns.TypeSRV))
	f.Add("..svc.cluster.local.", uint16(1))
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		if !dns.IsSubDomain("cluster.local.", name) {
			return
		}
		z.lookup(strings.ToLower(name), qtype)
		if ip, ok := fromReverse(name); ok {
			z.reverse(name, qtype, ip)
		}
	})
}
