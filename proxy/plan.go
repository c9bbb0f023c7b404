// Package proxy makes Services work on a node: Services and EndpointSlices
// come in from informers, load-balancing rules go out to the kernel, changed
// service by service.
package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/datapath/lb"
)

// Plan is what one Service asks of the node's kernel.
type Plan struct {
	V4, V6 []lb.Rule
	// Ready are the addresses of endpoints that get new connections because
	// they are ready, rather than for want of others.
	Ready []netip.Addr
	// HealthPort is the node's health check port of a Service with the Local
	// policy (0: none), LocalReady how many ready endpoints this node has.
	HealthPort int32
	LocalReady int
}

// MakePlan computes a Service's rules on the named node from its slices. It
// is pure; nothing it is given is changed or kept. A nil Service, a headless
// one and an ExternalName have an empty plan.
func MakePlan(svc *corev1.Service, slicesOf []*discoveryv1.EndpointSlice, node string) Plan {
	var p Plan
	if svc == nil || !proxied(svc) {
		return p
	}
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		for _, v6 := range []bool{false, true} {
			eps := endpointsOf(slicesOf, port, v6, node)
			rules := rulesOf(svc, port, eps, v6)
			if v6 {
				p.V6 = append(p.V6, rules...)
			} else {
				p.V4 = append(p.V4, rules...)
			}
			for _, e := range eps {
				if e.ready && !slices.Contains(p.Ready, e.addr.Addr()) {
					p.Ready = append(p.Ready, e.addr.Addr())
					if e.local {
						p.LocalReady++
					}
				}
			}
		}
	}
	if externalLocal(svc) && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		p.HealthPort = svc.Spec.HealthCheckNodePort
	}
	return p
}

// proxied says that the Service is this proxy's to carry.
func proxied(svc *corev1.Service) bool {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" {
		return false
	}
	return carried(svc.Labels)
}

// carried says that a Service or a slice is for this proxy by its labels: not
// for another one, and not for clients that need none (API documentation of
// LabelServiceProxyName and IsHeadlessService).
func carried(labels map[string]string) bool {
	_, other := labels["service.kubernetes.io/service-proxy-name"]
	_, headless := labels[corev1.IsHeadlessService]
	return !other && !headless
}

func externalLocal(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// endpoint is one backend with what decides over its use.
type endpoint struct {
	addr  netip.AddrPort
	local bool
	ready bool
	// leaving endpoints still serve while they terminate.
	leaving bool
}

func endpointsOf(list []*discoveryv1.EndpointSlice, port *corev1.ServicePort, v6 bool, node string) []endpoint {
	family := discoveryv1.AddressTypeIPv4
	if v6 {
		family = discoveryv1.AddressTypeIPv6
	}
	byAddr := map[netip.AddrPort]endpoint{}
	for _, s := range list {
		if s.AddressType != family || !carried(s.Labels) {
			continue
		}
		for _, sp := range s.Ports {
			if ptr.Deref(sp.Name, "") != port.Name || ptr.Deref(sp.Protocol, corev1.ProtocolTCP) != port.Protocol || sp.Port == nil || *sp.Port < 1 || *sp.Port > 65535 {
				continue
			}
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				ready := ptr.Deref(e.Conditions.Ready, true)
				serving := ptr.Deref(e.Conditions.Serving, ready)
				terminating := ptr.Deref(e.Conditions.Terminating, false)
				if len(e.Addresses) == 0 || !ready && !(serving && terminating) {
					continue
				}
				ip, ok := address(e.Addresses[0], v6)
				if !ok {
					continue
				}
				ap := netip.AddrPortFrom(ip, uint16(*sp.Port))
				// During a move between slices an endpoint may be in two; ready wins.
				if old, ok := byAddr[ap]; ok && old.ready {
					continue
				}
				byAddr[ap] = endpoint{addr: ap, local: node != "" && ptr.Deref(e.NodeName, "") == node, ready: ready, leaving: !ready}
			}
		}
	}
	out := make([]endpoint, 0, len(byAddr))
	for _, e := range byAddr {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return out
}

// choose returns the ready endpoints, or where there are none those that
// still serve while terminating (KEP-1669).
func choose(eps []endpoint, localOnly bool) []netip.AddrPort {
	var ready, leaving []netip.AddrPort
	for _, e := range eps {
		switch {
		case localOnly && !e.local:
		case e.ready:
			ready = append(ready, e.addr)
		case e.leaving:
			leaving = append(leaving, e.addr)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return leaving
}

func rulesOf(svc *corev1.Service, port *corev1.ServicePort, eps []endpoint, v6 bool) []lb.Rule {
	internal := internalFrontends(svc, port, v6)
	external := externalFrontends(svc, port, v6)
	if len(internal) == 0 {
		return nil // the Service has no address of this family
	}
	all := choose(eps, false)
	rule := lb.Rule{
		ID:       ruleID(svc, port),
		Name:     svc.Namespace + "/" + svc.Name + ":" + port.Name,
		Protocol: protocol(port.Protocol),
		Internal: all, External: all,
	}
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		rule.Affinity = 3 * time.Hour
		if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			rule.Affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && p.Addr().Is6() == v6 {
			rule.Sources = append(rule.Sources, p)
		}
	}
	if externalLocal(svc) {
		rule.ExternalLocal, rule.External = true, choose(eps, true)
	}
	if ptr.Deref(svc.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) != corev1.ServiceInternalTrafficPolicyLocal {
		rule.Frontends = append(internal, external...)
		return []lb.Rule{rule}
	}
	// Inside and outside see different backends: two rules.
	inside := rule
	inside.Frontends, inside.Internal, inside.InternalLocal = internal, choose(eps, true), true
	inside.External, inside.ExternalLocal = nil, false
	if len(external) == 0 {
		return []lb.Rule{inside}
	}
	rule.ID += "-x"
	rule.Frontends = external
	return []lb.Rule{inside, rule}
}

func internalFrontends(svc *corev1.Service, port *corev1.ServicePort, v6 bool) []lb.Frontend {
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	return frontends(ips, port.Port, v6, lb.Frontend{})
}

func externalFrontends(svc *corev1.Service, port *corev1.ServicePort, v6 bool) []lb.Frontend {
	out := frontends(svc.Spec.ExternalIPs, port.Port, v6, lb.Frontend{External: true})
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		var ips []string
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if in.IP != "" && ptr.Deref(in.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
				ips = append(ips, in.IP)
			}
		}
		out = append(out, frontends(ips, port.Port, v6, lb.Frontend{External: true, Guarded: true})...)
	}
	if port.NodePort != 0 {
		out = append(out, lb.Frontend{Port: uint16(port.NodePort), External: true})
	}
	return out
}

func frontends(ips []string, port int32, v6 bool, like lb.Frontend) []lb.Frontend {
	var out []lb.Frontend
	for _, s := range ips {
		ip, ok := address(s, v6)
		if !ok {
			continue
		}
		f := like
		f.Addr, f.Port = ip, uint16(port)
		out = append(out, f)
	}
	return out
}

// address is what rules can be made of: an address of the family, without a
// zone, which no rule knows.
func address(s string, v6 bool) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(s)
	return ip, err == nil && ip.Is6() == v6 && !ip.Is4In6() && ip.Zone() == ""
}

func protocol(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return lb.UDP
	case corev1.ProtocolSCTP:
		return lb.SCTP
	}
	return lb.TCP
}

// ruleID is a stable short name of a Service's port.
func ruleID(svc *corev1.Service, port *corev1.ServicePort) string {
	sum := sha256.Sum256([]byte(svc.Namespace + "/" + svc.Name + "/" + port.Name + "/" + string(port.Protocol)))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10]))
}
