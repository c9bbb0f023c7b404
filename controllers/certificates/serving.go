package certificates

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/pki"
)

// Reserved are the names and addresses of the API server, which no node may
// ever serve under: one authority signs for both.
type Reserved struct {
	Names []string
	IPs   []net.IP
}

// servingRequest returns the request for a certificate of a kubelet's server
// and the node that asks; ok is false for other requests.
func servingRequest(r *certificatesv1.CertificateSigningRequest) (csr *x509.CertificateRequest, node string, ok bool) {
	if r.Spec.SignerName != certificatesv1.KubeletServingSignerName {
		return nil, "", false
	}
	csr, err := pki.ParseCSR(r.Spec.Request)
	if err != nil || rules()[r.Spec.SignerName](csr, r.Spec.Usages) != nil {
		return nil, "", false
	}
	node, isNode := strings.CutPrefix(r.Spec.Username, nodeUser)
	if !isNode || node == "" || !slices.Contains(r.Spec.Groups, nodeGroup) || csr.Subject.CommonName != r.Spec.Username {
		return nil, "", false
	}
	return csr, node, true
}

// mayServe says why a node may not serve under what it asks for, "" if it
// may: under its own name and the addresses that its Node records, none of
// which is loopback, the API server's or another node's too. A node writes
// its own addresses, so recording them alone proves nothing.
func mayServe(csr *x509.CertificateRequest, node *corev1.Node, others []*corev1.Node, reserved Reserved) string {
	for _, name := range csr.DNSNames {
		lower := strings.ToLower(name)
		if lower != node.Name {
			return fmt.Sprintf("%q is not the node's name", name)
		}
		if lower == "localhost" || slices.ContainsFunc(reserved.Names, func(n string) bool { return strings.EqualFold(n, name) }) {
			return fmt.Sprintf("the name %q is the API server's", name)
		}
	}
	for _, ip := range csr.IPAddresses {
		switch {
		case !records(node, ip):
			return fmt.Sprintf("%v is not an address of the node", ip)
		case ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast():
			return fmt.Sprintf("%v is no address of a machine", ip)
		case slices.ContainsFunc(reserved.IPs, ip.Equal):
			return fmt.Sprintf("%v is the API server's", ip)
		}
		for _, o := range others {
			if o.Name != node.Name && records(o, ip) {
				return fmt.Sprintf("%v is node %s's too", ip, o.Name)
			}
		}
	}
	return ""
}

// records says that a Node has an IP address.
func records(n *corev1.Node, ip net.IP) bool {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if have, err := netip.ParseAddr(a.Address); err == nil && ip.Equal(have.AsSlice()) {
			return true
		}
	}
	return false
}

// nodeChanged looks again at what the node waits for.
func (c *Controller) nodeChanged(node, old *corev1.Node) {
	if node == nil || old != nil && slices.Equal(node.Status.Addresses, old.Status.Addresses) {
		return
	}
	for _, r := range c.requests.List("", nil) {
		if r.Spec.SignerName == certificatesv1.KubeletServingSignerName && r.Spec.Username == nodeUser+node.Name && !decided(r) {
			c.loop.AddObject(r)
		}
	}
}
