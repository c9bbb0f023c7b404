package sim

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/client"
)

// adopt learns the range that the cluster gave the node.
func (n *Node) adopt(node *corev1.Node) {
	cidr, err := netip.ParsePrefix(node.Spec.PodCIDR)
	if err != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cidr = cidr.Masked()
}

// learn asks for the node's range, which the cluster gives it a moment after it
// has registered, unless it is known; but not over and over, for there may be
// none.
func (n *Node) learn(ctx context.Context) error {
	n.mu.Lock()
	now := n.cfg.Clock.Now()
	ask := !n.cidr.IsValid() && now.Sub(n.asked) >= renewEvery
	if ask {
		n.asked = now
	}
	n.mu.Unlock()
	if !ask {
		return nil
	}
	node, err := client.Nodes.In(n.cfg.Door, "").Get(ctx, n.cfg.Name)
	if err == nil {
		n.adopt(node)
	}
	return err
}

// address is a pod's: of the node's range, which is used round and round, or
// of 100.64.0.0/10 (RFC 6598) where it has none.
func (n *Node) address(uid string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.used[uid]; ok {
		return a.String()
	}
	cidr := n.cidr
	if !cidr.IsValid() {
		at := uint32(n.cfg.Index%(1<<14)) << 8
		cidr = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 | byte(at>>16), byte(at >> 8), 0}), 24)
	}
	if !cidr.Contains(n.next) {
		n.next = cidr.Addr()
	}
	for tries := 0; tries < 1<<16; tries++ {
		if n.next = n.next.Next(); !cidr.Contains(n.next) {
			n.next = cidr.Addr().Next()
		}
		if !n.taken[n.next] {
			break
		} // and if all are taken, the last is shared: nothing answers there anyway
	}
	n.used[uid], n.taken[n.next] = n.next, true
	return n.next.String()
}

func (n *Node) release(uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.used[uid]; ok {
		delete(n.used, uid)
		delete(n.taken, a)
	}
}
