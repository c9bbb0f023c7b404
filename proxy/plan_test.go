package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/datapath/lb"
)

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.43.0.10", ClusterIPs: []string{"10.43.0.10"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

// slice makes one slice of endpoints given as "ip@node" with a state: "" is
// ready, "-" not ready, "~" serving while terminating.
func slice(eps ...string) []*discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for _, e := range eps {
		state := strings.TrimLeft(e, "0123456789.@n")
		e = strings.TrimSuffix(e, state)
		ip, node, _ := strings.Cut(e, "@")
		c := discoveryv1.EndpointConditions{Ready: ptr.To(state == ""), Serving: ptr.To(state != "-"), Terminating: ptr.To(state == "~")}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node, Conditions: c})
	}
	return []*discoveryv1.EndpointSlice{s}
}

// show writes rules as text: frontends -> internal | external.
func show(rules []lb.Rule) string {
	var out []string
	for _, r := range rules {
		var fs []string
		for _, f := range r.Frontends {
			addr := "*"
			if f.Addr.IsValid() {
				addr = f.Addr.String()
			}
			s := fmt.Sprintf("%s:%d", addr, f.Port)
			if f.External {
				s = "ext " + s
			}
			if f.Guarded {
				s += " guarded"
			}
			fs = append(fs, s)
		}
		list := func(l []netip.AddrPort, local bool) string {
			var s []string
			for _, b := range l {
				s = append(s, b.Addr().String())
			}
			if local {
				s = append(s, "local")
			}
			return strings.Join(s, " ")
		}
		text := strings.Join(fs, ", ") + " -> " + list(r.Internal, r.InternalLocal) + " | " + list(r.External, r.ExternalLocal)
		if r.Affinity > 0 {
			text += " affinity " + r.Affinity.String()
		}
		out = append(out, strings.TrimSpace(text))
	}
	return strings.Join(out, "\n")
}

func labelled(label string, list ...string) []*discoveryv1.EndpointSlice {
	s := slice(list...)
	s[0].Labels = map[string]string{label: ""}
	return s
}

func TestPlan(t *testing.T) {
	nodePort := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
	}
	for _, c := range []struct {
		name string
		svc  *corev1.Service
		eps  []*discoveryv1.EndpointSlice
		want string
	}{
		{"ready endpoints only", service(nil), slice("10.42.0.5@n1", "10.42.0.6@n2-", "10.42.0.4@n1"),
			"10.43.0.10:80 -> 10.42.0.4 10.42.0.5 | 10.42.0.4 10.42.0.5"},
		{"terminating ones serve when no other does", service(nil), slice("10.42.0.5@n1~", "10.42.0.6@n2-"),
			"10.43.0.10:80 -> 10.42.0.5 | 10.42.0.5"},
		{"terminating ones rest while others are ready", service(nil), slice("10.42.0.5@n1~", "10.42.0.6@n2"),
			"10.43.0.10:80 -> 10.42.0.6 | 10.42.0.6"},
		{"no endpoints", service(nil), nil, "10.43.0.10:80 ->  |"},
		{"node port", service(nodePort), slice("10.42.0.5@n1"),
			"10.43.0.10:80, ext *:30080 -> 10.42.0.5 | 10.42.0.5"},
		{"external policy Local", service(func(s *corev1.Service) {
			nodePort(s)
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), slice("10.42.0.5@n1", "10.42.0.6@n2"),
			"10.43.0.10:80, ext *:30080 -> 10.42.0.5 10.42.0.6 | 10.42.0.5 local"},
		{"internal policy Local makes two rules", service(func(s *corev1.Service) {
			nodePort(s)
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}), slice("10.42.0.5@n1", "10.42.0.6@n2"),
			"10.43.0.10:80 -> 10.42.0.5 local |\next *:30080 -> 10.42.0.5 10.42.0.6 | 10.42.0.5 10.42.0.6"},
		{"load balancer", service(func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.ExternalIPs = []string{"192.0.2.1"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}, {IP: "192.0.2.8", IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}}
		}), slice("10.42.0.5@n1"),
			"10.43.0.10:80, ext 192.0.2.1:80, ext 192.0.2.9:80 guarded -> 10.42.0.5 | 10.42.0.5"},
		{"affinity", service(func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](60)}}
		}), slice("10.42.0.5@n1"), "10.43.0.10:80 -> 10.42.0.5 | 10.42.0.5 affinity 1m0s"},
		{"slices of others", service(nil), append(labelled(corev1.IsHeadlessService, "10.42.0.5@n1"),
			append(labelled("service.kubernetes.io/service-proxy-name", "10.42.0.6@n1"), slice("10.42.0.7@n1")...)...), "10.43.0.10:80 -> 10.42.0.7 | 10.42.0.7"},
		{"headless", service(func(s *corev1.Service) { s.Spec.ClusterIP = "None"; s.Spec.ClusterIPs = []string{"None"} }), slice("10.42.0.5@n1"), ""},
		{"another proxy's", service(func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "x"}
		}), slice("10.42.0.5@n1"), ""},
		{"absent", nil, slice("10.42.0.5@n1"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := MakePlan(c.svc, c.eps, "n1")
			if got := show(p.V4); got != c.want {
				t.Errorf("rules:\n%s\nwant:\n%s", got, c.want)
			}
			if len(p.V6) != 0 {
				t.Errorf("rules for IPv6 of an IPv4 service: %v", p.V6)
			}
		})
	}
}

func TestPlanIsStable(t *testing.T) {
	a := MakePlan(service(nil), slice("10.42.0.5@n1", "10.42.0.4@n1"), "n1")
	b := MakePlan(service(nil), slice("10.42.0.4@n1", "10.42.0.5@n1"), "n1")
	if set, del := difference(b.V4, a.V4); len(set)+len(del) != 0 {
		t.Errorf("the order of endpoints changed the rules: %v %v", set, del)
	}
}

func TestStaleFlows(t *testing.T) {
	udp := func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }
	eps := func(list ...string) []*discoveryv1.EndpointSlice {
		s := slice(list...)
		s[0].Ports[0].Protocol = ptr.To(corev1.ProtocolUDP)
		return s
	}
	two := MakePlan(service(udp), eps("10.42.0.5@n1", "10.42.0.6@n1"), "n1").V4
	one := MakePlan(service(udp), eps("10.42.0.6@n1"), "n1").V4
	none := MakePlan(service(udp), nil, "n1").V4
	gone, woken := staleFlows(two, one)
	if fmt.Sprint(gone) != "[10.42.0.5:8080]" || woken != nil {
		t.Errorf("a backend went: gone %v, woken %v", gone, woken)
	}
	gone, woken = staleFlows(none, one)
	if gone != nil || fmt.Sprint(woken) != "[10.43.0.10:80]" {
		t.Errorf("the first backend came: gone %v, woken %v", gone, woken)
	}
}
