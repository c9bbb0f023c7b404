package certificates

import (
	"crypto/x509"
	"net"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMayServe(t *testing.T) {
	node := func(name string, addresses ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	csr := func(names []string, ips ...string) *x509.CertificateRequest {
		r := &x509.CertificateRequest{DNSNames: names}
		for _, ip := range ips {
			r.IPAddresses = append(r.IPAddresses, net.ParseIP(ip))
		}
		return r
	}
	reserved := Reserved{Names: []string{"kubernetes", "server"}, IPs: []net.IP{net.ParseIP("192.0.2.1")}}
	self := []string{"a"}
	for name, tc := range map[string]struct {
		csr  *x509.CertificateRequest
		node *corev1.Node
		ok   bool
	}{
		"own name and address":         {csr(self, "192.0.2.5"), node("a", "192.0.2.5"), true},
		"one of two addresses":         {csr(self, "2001:db8::5"), node("a", "192.0.2.5", "2001:db8::5"), true},
		"address that is not recorded": {csr(self, "192.0.2.6"), node("a", "192.0.2.5"), false},
		"other name":                   {csr([]string{"a", "b"}, "192.0.2.5"), node("a", "192.0.2.5"), false},
		"the API server's address":     {csr(self, "192.0.2.1"), node("a", "192.0.2.1"), false},
		"the API server's name":        {csr([]string{"kubernetes"}), node("kubernetes"), false},
		"localhost":                    {csr([]string{"localhost"}), node("localhost"), false},
		"loopback":                     {csr(self, "127.0.0.1"), node("a", "127.0.0.1"), false},
		"another node's address":       {csr(self, "192.0.2.9"), node("a", "192.0.2.9"), false},
	} {
		others := []*corev1.Node{tc.node, node("z", "192.0.2.9")}
		if why := mayServe(tc.csr, tc.node, others, reserved); (why == "") != tc.ok {
			t.Errorf("%s: %q", name, why)
		}
	}
}
