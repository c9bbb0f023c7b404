package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/cni"
)

// network is the pod network's configuration for a node's pod ranges.
func (c *config) network(podCIDRs []netip.Prefix) cni.Conf {
	conf := cni.Conf{Name: c.Name, PodCIDRs: podCIDRs, StateDir: filepath.Join(c.runDir(), "cni")}
	if p, err := netip.ParsePrefix(c.ClusterCIDR); err == nil {
		conf.ClusterCIDRs = []netip.Prefix{p}
	}
	if c.overlayAlways() {
		conf.MTU = cni.OverlayMTU()
	}
	return conf
}

func (c *config) overlayAlways() bool { return c.Overlay == overlayAlways }

// overlay describes this node's end of the VXLAN.
func (c *config) overlay() cni.Overlay {
	local, _ := netip.ParseAddr(c.NodeIP)
	return cni.Overlay{ID: c.OverlayID, Local: local.Unmap(), Self: c.NodeName, Always: c.overlayAlways()}
}

// networkChanged says that a change of a node concerns the pod network.
func networkChanged(node, old *corev1.Node) bool {
	if node == nil || old == nil {
		return true
	}
	return !slices.Equal(node.Spec.PodCIDRs, old.Spec.PodCIDRs) || !slices.Equal(node.Status.Addresses, old.Status.Addresses)
}

// runNetwork gives the node's pod ranges to the CNI plugin once they are
// known, and keeps the routes to those of the other nodes.
func (n *localNode) runNetwork(ctx context.Context, me client.Interface) error {
	informers := client.NewInformers(me)
	nodes := client.InformerFor(informers, client.Nodes)
	changed := make(chan struct{}, 1)
	registration, err := nodes.OnChange(func(node, old *corev1.Node) {
		if node != nil && node.Name == n.cfg.NodeName {
			n.me.Store(node)
		}
		if !networkChanged(node, old) {
			return
		}
		select {
		case changed <- struct{}{}:
		default: // someone is about to look
		}
	})
	if err != nil {
		return err
	}
	informers.Start(ctx)
	// Routes to nodes that are not listed yet must not be taken for old ones.
	if !client.WaitForSync(ctx, registration.HasSyncedChecker()) {
		return ctx.Err()
	}
	last := ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		self, ok := nodes.Get("", n.cfg.NodeName)
		if !ok || len(self.Spec.PodCIDRs) == 0 {
			continue
		}
		own, err := prefixes(self.Spec.PodCIDRs)
		if err != nil {
			return fmt.Errorf("pod range of node %s: %w", n.cfg.NodeName, err)
		}
		conf := n.cfg.network(own)
		if now := strings.Join(self.Spec.PodCIDRs, ","); now != last {
			if err := cni.Setup(conf); err != nil {
				return err
			}
			n.checkRoom(ctx, me, own) // before this makes the node ready
			if err := cni.WriteConfig(n.cfg.CNIConfDir, conf); err != nil {
				return err
			}
			last = now
		}
		if err := cni.SyncPeers(conf, n.cfg.overlay(), n.cfg.peers(nodes.List("", nil))); err != nil {
			return err
		}
	}
}

// noRoom says what is wrong with a node that takes more pods than its ranges
// have addresses for, "" if it does not.
func noRoom(maxPods int, ranges []netip.Prefix) string {
	for _, r := range ranges {
		if n := cni.Addresses(r); n < maxPods {
			return fmt.Sprintf("The node takes %d pods, but its pod range %v has addresses for only %d: further pods will not start. "+
				"Lower --max-pods, or give the cluster's nodes larger ranges.", maxPods, r, n)
		}
	}
	return ""
}

// checkRoom tells of a node that takes more pods than it has addresses for:
// the log, an event of the node, and whoever started this process.
func (n *localNode) checkRoom(ctx context.Context, door client.Interface, ranges []netip.Prefix) {
	problem := noRoom(n.cfg.MaxPods, ranges)
	if problem == "" {
		return
	}
	n.log.Warn("more pods than addresses", "problem", problem)
	n.report.warn(problem)
	self := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.cfg.NodeName, UID: types.UID(n.cfg.NodeName)}
	client.NewRecorder(ctx, door, "kubelet", n.cfg.NodeName).Event(self, corev1.EventTypeWarning, "InvalidMaxPods", problem)
}

func prefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// peers are the other nodes that have pod ranges and addresses, by name.
func (c *config) peers(nodes []*corev1.Node) []cni.Peer {
	var out []cni.Peer
	for _, node := range nodes {
		ranges, err := prefixes(node.Spec.PodCIDRs)
		if node.Name == c.NodeName || err != nil || len(ranges) == 0 {
			continue
		}
		p := cni.Peer{Name: node.Name, PodCIDRs: ranges}
		if a, err := netip.ParseAddr(c.via[node.Name]); err == nil {
			p.Addrs = append(p.Addrs, a)
		}
		for _, a := range node.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				p.Addrs = append(p.Addrs, ip.Unmap())
			}
		}
		if len(p.Addrs) > 0 {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b cni.Peer) int { return strings.Compare(a.Name, b.Name) })
	return out
}
