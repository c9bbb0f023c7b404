// Package dns answers names of the cluster from the Services and
// EndpointSlices that informers hold, and forwards all others, as the
// Kubernetes DNS specification (version 1.1.0) says.
package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// Version is the DNS specification that the records follow.
const Version = "1.1.0"

// ttl of the records, in seconds: short, since endpoints move.
const ttl = 5

// Cluster is what the records are made from. Objects are shared and read
// only. Implementations are safe for concurrent use.
type Cluster interface {
	Service(namespace, name string) *corev1.Service
	Slices(namespace, service string) []*discoveryv1.EndpointSlice
	NamespaceExists(name string) bool
	// ServiceByIP finds the Service of a cluster IP, SlicesByIP the slices
	// that hold an endpoint's address.
	ServiceByIP(ip netip.Addr) *corev1.Service
	SlicesByIP(ip netip.Addr) []*discoveryv1.EndpointSlice
}

// answer is what the cluster says to one question.
type answer struct {
	records, extra []dns.RR
	// found says that the name exists, if perhaps without records of the type.
	found bool
	// alias, if set, is where a CNAME leads out of the cluster's zone.
	alias string
}

// zone answers questions for one cluster domain; domain is fully qualified.
type zone struct {
	domain  string
	cluster Cluster
}

// lookup answers a lower-case name within the zone. It is pure apart from
// reading the cluster.
func (z *zone) lookup(name string, qtype uint16) answer {
	rest := strings.TrimSuffix(strings.TrimSuffix(name, z.domain), ".")
	if rest == "" {
		return z.apex(name, qtype)
	}
	if rest == "dns-version" {
		a := answer{found: true}
		if qtype == dns.TypeTXT {
			a.records = []dns.RR{&dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{Version}}}
		}
		return a
	}
	labels := strings.Split(rest, ".")
	n := len(labels)
	switch labels[n-1] {
	case "svc":
		switch {
		case n == 1:
			return answer{found: true}
		case n == 2:
			return answer{found: z.cluster.NamespaceExists(labels[0])}
		}
		return z.service(name, qtype, labels[:n-2], labels[n-2])
	case "pod":
		switch {
		case n == 1:
			return answer{found: true}
		case n == 2:
			return answer{found: z.cluster.NamespaceExists(labels[0])}
		case n == 3 && z.cluster.NamespaceExists(labels[1]):
			if ip, ok := dashed(labels[0]); ok {
				return answer{found: true, records: address(name, qtype, ip)}
			}
		}
	}
	return answer{}
}

func (z *zone) apex(name string, qtype uint16) answer {
	a := answer{found: true}
	switch qtype {
	case dns.TypeSOA:
		a.records = []dns.RR{z.soa()}
	case dns.TypeNS:
		a.records = []dns.RR{&dns.NS{Hdr: header(name, dns.TypeNS), Ns: "ns.dns." + z.domain}}
	}
	return a
}

// soa is the zone's SOA record; its minimum is how long "no" may be cached.
func (z *zone) soa() dns.RR {
	return &dns.SOA{
		Hdr: header(z.domain, dns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// service answers names below a namespace: the labels before it are
// [service], [endpoint service] or [_port _protocol service].
func (z *zone) service(name string, qtype uint16, labels []string, namespace string) answer {
	n := len(labels)
	if n > 3 {
		return answer{}
	}
	svc := z.cluster.Service(namespace, labels[n-1])
	if svc == nil {
		return answer{}
	}
	base := svc.Name + "." + svc.Namespace + ".svc." + z.domain
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if n != 1 || svc.Spec.ExternalName == "" {
			return answer{}
		}
		target := dns.Fqdn(strings.ToLower(svc.Spec.ExternalName))
		if ip, err := netip.ParseAddr(svc.Spec.ExternalName); err == nil {
			return answer{found: true, records: address(name, qtype, ip)}
		}
		return answer{
			found: true, alias: target,
			records: []dns.RR{&dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: target}},
		}
	}
	eps := z.endpoints(svc, base)
	switch n {
	case 1:
		return z.serviceItself(name, qtype, svc, base, eps)
	case 2:
		return oneEndpoint(name, qtype, labels[0], eps)
	}
	if !strings.HasPrefix(labels[0], "_") || !strings.HasPrefix(labels[1], "_") {
		return answer{}
	}
	return srv(name, qtype, base, svc, eps, func(port, protocol string) bool {
		return "_"+port == labels[0] && "_"+strings.ToLower(protocol) == labels[1]
	})
}

func headless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }

func (z *zone) serviceItself(name string, qtype uint16, svc *corev1.Service, base string, eps []endpoint) answer {
	if qtype == dns.TypeSRV {
		return srv(name, qtype, base, svc, eps, func(string, string) bool { return true })
	}
	a := answer{found: true}
	if !headless(svc) {
		for _, s := range svc.Spec.ClusterIPs {
			if ip, err := netip.ParseAddr(s); err == nil {
				a.records = append(a.records, address(name, qtype, ip)...)
			}
		}
		return a
	}
	// A headless Service without endpoints has no name at all.
	a.found = len(eps) > 0
	for _, e := range eps {
		a.records = append(a.records, address(name, qtype, e.ip)...)
	}
	return a
}

func oneEndpoint(name string, qtype uint16, host string, eps []endpoint) answer {
	var a answer
	for _, e := range eps {
		if e.host == host {
			a.found = true
			a.records = append(a.records, address(name, qtype, e.ip)...)
		}
	}
	return a
}

// endpoint is one ready address of a headless Service under its name.
type endpoint struct {
	host  string // its label below the Service
	name  string // fully qualified
	ip    netip.Addr
	ports []discoveryv1.EndpointPort
}

// endpoints lists the ready endpoints of a headless Service, in order; nil
// for others, whose endpoints have no names.
func (z *zone) endpoints(svc *corev1.Service, base string) []endpoint {
	if !headless(svc) {
		return nil
	}
	var out []endpoint
	for _, s := range z.cluster.Slices(svc.Namespace, svc.Name) {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if !ptr.Deref(e.Conditions.Ready, true) {
				continue
			}
			for _, text := range e.Addresses {
				ip, err := netip.ParseAddr(text)
				if err != nil {
					continue
				}
				host := hostOf(e, ip)
				out = append(out, endpoint{host: host, name: host + "." + base, ip: ip, ports: s.Ports})
			}
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.ip.Compare(b.ip) })
	return out
}

// hostOf is an endpoint's label: its hostname, or its address with dashes.
func hostOf(e *discoveryv1.Endpoint, ip netip.Addr) string {
	if h := ptr.Deref(e.Hostname, ""); h != "" {
		return strings.ToLower(h)
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
}

func srv(name string, qtype uint16, base string, svc *corev1.Service, eps []endpoint, wanted func(port, protocol string) bool) answer {
	var a answer
	add := func(target string, port int32, ip netip.Addr) {
		a.found = true
		if qtype != dns.TypeSRV {
			return
		}
		a.records = append(a.records, &dns.SRV{Hdr: header(name, dns.TypeSRV), Weight: 100, Port: uint16(port), Target: target})
		t := dns.TypeA
		if ip.Is6() {
			t = dns.TypeAAAA
		}
		for _, rr := range address(target, t, ip) {
			if !slices.ContainsFunc(a.extra, func(x dns.RR) bool { return x.String() == rr.String() }) {
				a.extra = append(a.extra, rr)
			}
		}
	}
	if !headless(svc) {
		for _, p := range svc.Spec.Ports {
			if !wanted(p.Name, string(p.Protocol)) {
				continue
			}
			for i, s := range svc.Spec.ClusterIPs {
				if ip, err := netip.ParseAddr(s); err == nil && i == 0 {
					add(base, p.Port, ip)
				}
			}
		}
	} else {
		for _, e := range eps {
			for _, p := range e.ports {
				if p.Port != nil && wanted(ptr.Deref(p.Name, ""), string(ptr.Deref(p.Protocol, corev1.ProtocolTCP))) {
					add(e.name, *p.Port, e.ip)
				}
			}
		}
	}
	if n := len(a.records); n > 0 {
		for _, rr := range a.records {
			rr.(*dns.SRV).Weight = uint16(max(1, 100/n))
		}
	}
	return a
}

// reverse answers PTR questions for addresses of the cluster; found is false
// for all others, which are forwarded.
func (z *zone) reverse(name string, qtype uint16, ip netip.Addr) answer {
	var a answer
	add := func(target string) {
		a.found = true
		if qtype == dns.TypePTR {
			a.records = append(a.records, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: target})
		}
	}
	if svc := z.cluster.ServiceByIP(ip); svc != nil {
		add(svc.Name + "." + svc.Namespace + ".svc." + z.domain)
		return a
	}
	for _, s := range z.cluster.SlicesByIP(ip) {
		svc := z.cluster.Service(s.Namespace, s.Labels[discoveryv1.LabelServiceName])
		if svc == nil || !headless(svc) {
			continue
		}
		for i := range s.Endpoints {
			if slices.Contains(s.Endpoints[i].Addresses, ip.String()) {
				add(hostOf(&s.Endpoints[i], ip) + "." + svc.Name + "." + svc.Namespace + ".svc." + z.domain)
			}
		}
	}
	return a
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// address makes the A or AAAA record if it is of the type asked for.
func address(name string, qtype uint16, ip netip.Addr) []dns.RR {
	switch {
	case ip.Is4() && (qtype == dns.TypeA || qtype == dns.TypeANY):
		return []dns.RR{&dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()}}
	case ip.Is6() && (qtype == dns.TypeAAAA || qtype == dns.TypeANY):
		return []dns.RR{&dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: ip.AsSlice()}}
	}
	return nil
}

// dashed reads an address written with dashes, as pod names have it.
func dashed(s string) (netip.Addr, bool) {
	if ip, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ".")); err == nil {
		return ip, true
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ":"))
	return ip, err == nil
}

// fromReverse reads the address of an in-addr.arpa or ip6.arpa name.
func fromReverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		p := strings.Split(rest, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		slices.Reverse(p)
		ip, err := netip.ParseAddr(strings.Join(p, "."))
		return ip, err == nil
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		p := strings.Split(rest, ".")
		if len(p) != 32 {
			return netip.Addr{}, false
		}
		slices.Reverse(p)
		var b strings.Builder
		for i, digit := range p {
			if i > 0 && i%4 == 0 {
				b.WriteByte(':')
			}
			b.WriteString(digit)
		}
		ip, err := netip.ParseAddr(b.String())
		return ip, err == nil
	}
	return netip.Addr{}, false
}
