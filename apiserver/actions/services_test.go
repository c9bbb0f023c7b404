package actions

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// TestKeep changes the type of a Service whose client sends back all that it
// has read, allocations included.
func TestKeep(t *testing.T) {
	service := func(kind corev1.ServiceType, ip string, port int32) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}}}
		if ip != "" {
			s.Spec.ClusterIPs = []string{ip}
			s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv4Protocol}, ptr.To(corev1.IPFamilyPolicySingleStack)
		}
		return s
	}
	const ip = "10.0.0.9"
	familiesOnly := func(s *corev1.Service) *corev1.Service {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		return s
	}
	unallocated := func(s *corev1.Service) *corev1.Service {
		s.Spec.AllocateLoadBalancerNodePorts = ptr.To(false)
		return s
	}
	for _, tt := range []struct {
		name      string
		old, sent *corev1.Service
		ip        string
		port      int32
	}{
		{"nothing changes", service("NodePort", ip, 30001), service("NodePort", ip, 30001), ip, 30001},
		{"left out", service("NodePort", ip, 30001), service("NodePort", "", 0), ip, 30001},
		{"to ClusterIP", service("NodePort", ip, 30001), service("ClusterIP", ip, 30001), ip, 0},
		{"to ExternalName", service("NodePort", ip, 30001), service("ExternalName", ip, 30001), "", 0},
		{"LoadBalancer to ExternalName", service("LoadBalancer", ip, 30001), service("ExternalName", ip, 30001), "", 0},
		{"to ExternalName, address left out", service("ClusterIP", ip, 0), familiesOnly(service("ExternalName", ip, 0)), "", 0},
		{"from ExternalName", service("ExternalName", "", 0), service("NodePort", "", 30002), "", 30002},
		{"no more ports, one stays", service("LoadBalancer", ip, 30001), unallocated(service("LoadBalancer", ip, 30001)), ip, 30001},
		{"a port of the client's own stays for validation to refuse", service("NodePort", ip, 30001), service("ClusterIP", ip, 30002), ip, 30002},
	} {
		t.Run(tt.name, func(t *testing.T) {
			new(txn).keep(tt.sent, tt.old)
			if s := tt.sent.Spec; s.ClusterIP != tt.ip || s.Ports[0].NodePort != tt.port || len(s.IPFamilies) != len(s.ClusterIPs) {
				t.Errorf("got %q %v with families %v, want %q %d", s.ClusterIP, s.Ports, s.IPFamilies, tt.ip, tt.port)
			}
		})
	}
}
