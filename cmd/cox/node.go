package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/cni"
	"github.com/coxswain/cox/datapath/lb"
	"github.com/coxswain/cox/dns"
	"github.com/coxswain/cox/internal/component"
	"github.com/coxswain/cox/kubelet"
	kubeletserver "github.com/coxswain/cox/kubelet/server"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/proxy"
	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/images"
)

// localNode is this machine as a node: runtime, kubelet, pod network, proxy
// and DNS.
type localNode struct {
	cfg     *config
	log     *slog.Logger
	group   *component.Group
	bundle  *pki.Bundle
	runtime *runtime.Runtime
	kubelet *kubelet.Kubelet
	proxy   atomic.Pointer[proxy.Proxy]
}

func newLocalNode(c *config, log *slog.Logger, group *component.Group, bundle *pki.Bundle) *localNode {
	return &localNode{cfg: c, log: log, group: group, bundle: bundle}
}

// runtimeConfig says where this cluster's containerd lives on this machine.
func (c *config) runtimeConfig(log *slog.Logger) runtime.Config {
	cfg := runtime.Config{
		Root: c.dir("containerd"), State: c.runDir() + "/containerd",
		CNIConfDir: c.CNIConfDir, CgroupRoot: "/" + c.cgroup(), Log: log,
	}
	if c.CNIBinDir != "" {
		cfg.CNIBinDirs = []string{c.CNIBinDir}
	}
	return cfg
}

// cgroup is the name under which everything of this cluster's node runs.
func (c *config) cgroup() string {
	if c.Name == "cox" {
		return "cox"
	}
	return "cox-" + c.Name
}

// network is the pod network's configuration for a node's pod ranges.
func (c *config) network(podCIDRs []netip.Prefix) cni.Conf {
	return cni.Conf{
		Name: c.Name, PodCIDRs: podCIDRs, StateDir: filepath.Join(c.runDir(), "cni"),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix(c.ClusterCIDR)},
	}
}

func (n *localNode) startRuntime(ctx context.Context) error {
	if n.cfg.RuntimeEndpoint != "" {
		rt, err := runtime.Dial(n.cfg.RuntimeEndpoint)
		n.runtime = rt
		return err
	}
	rt, err := runtime.Start(ctx, n.cfg.runtimeConfig(n.log.With("component", "containerd")))
	n.runtime = rt
	return err
}

// start runs the node's parts. door is the API server's; what is done through
// it carries the node's own identity.
func (n *localNode) start(ctx context.Context, door client.Interface) error {
	c := n.cfg
	me := client.As(door, client.User{
		Name: "system:node:" + c.NodeName, Groups: []string{"system:nodes", "system:authenticated"},
	})
	if err := os.MkdirAll(c.StaticPodPath, 0o700); err != nil {
		return fmt.Errorf("folder of static pods: %w", err)
	}
	labels, err := keyValues(c.NodeLabels)
	if err != nil {
		return fmt.Errorf("--node-label: %w", err)
	}
	runtimeService, imageService := n.runtime.CRI()
	k, err := kubelet.New(kubelet.Config{
		Client: me, NodeName: c.NodeName, NodeIPs: []string{c.NodeIP},
		RootDir: c.dir("kubelet"), LogDir: c.dir("log", "pods"),
		Runtime: runtimeService, Images: imageService,
		StaticPodDir: c.StaticPodPath, DefaultPod: func(p *corev1.Pod) { podspec.Default(&p.Spec) },
		ClusterDNS: []string{c.ClusterDNS}, ClusterDomain: c.ClusterDomain, ResolvConf: c.ResolvConf,
		CgroupRoot: "/" + c.cgroup(), MaxPods: c.MaxPods, Port: c.KubeletPort, Labels: labels,
		Drain: n.drain, Version: gitVersion, Log: n.log.With("component", "kubelet"),
	})
	if err != nil {
		return err
	}
	n.kubelet = k
	api, err := n.kubeletAPI(k, me)
	if err != nil {
		return fmt.Errorf("the kubelet's API: %w", err)
	}
	n.group.Go("kubelet", k.Run)
	n.group.Go("kubelet-api", func(ctx context.Context) error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", c.KubeletPort))
		if err != nil {
			return fmt.Errorf("the kubelet's API cannot listen: %w; choose another port with --kubelet-port", err)
		}
		return api.Serve(ctx, l)
	})
	n.group.Go("pod-network", func(ctx context.Context) error { return n.runNetwork(ctx, me) })
	n.group.Go("proxy", func(ctx context.Context) error { return n.runProxy(ctx, door) })
	go n.demoImage(ctx)
	n.group.Go("dns", func(ctx context.Context) error { return n.runDNS(ctx, door) })
	return nil
}

// kubeletAPI makes the HTTPS API through which logs and shells are reached.
func (n *localNode) kubeletAPI(k *kubelet.Kubelet, me client.Interface) (*kubeletserver.Server, error) {
	c := n.cfg
	_, serving, err := n.bundle.Node(c.NodeName, []string{c.NodeName}, []net.IP{net.ParseIP(c.NodeIP)})
	if err != nil {
		return nil, err
	}
	runtimeService, imageService := n.runtime.CRI()
	return kubeletserver.New(kubeletserver.Config{
		Node: k, Runtime: runtimeService, Images: imageService, Client: me,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serving.Certificate() },
		ClientCAs:      n.bundle.CA.Pool,
		RootDir:        c.dir("kubelet"), Log: n.log.With("component", "kubelet-api"),
	})
}

// demoImage imports the images of the README's tour, once per data directory.
// A node without them works all the same.
func (n *localNode) demoImage(ctx context.Context) {
	done := n.cfg.dir("containerd", "demo-imported")
	if _, err := os.Stat(done); err == nil || n.cfg.RuntimeEndpoint != "" {
		return
	}
	archive, err := runtime.DemoImage()
	if err == nil {
		_, err = images.Import(ctx, n.runtime.Conn(), archive, "")
	}
	if err == nil {
		err = os.WriteFile(done, nil, 0o600)
	}
	if err != nil && ctx.Err() == nil {
		n.log.Warn("the demo image was not imported", "error", err)
	}
}

// runNetwork gives the node's pod ranges to the CNI plugin once they are
// known, and again should they change.
func (n *localNode) runNetwork(ctx context.Context, me client.Interface) error {
	informers := client.NewInformers(me)
	nodes := client.ScopedInformerFor(informers, client.Nodes, client.Scope{Field: fields.OneTermEqualSelector("metadata.name", n.cfg.NodeName)})
	changed := make(chan []string, 1)
	last := ""
	_, err := nodes.OnChange(func(node, _ *corev1.Node) {
		if node == nil || len(node.Spec.PodCIDRs) == 0 || strings.Join(node.Spec.PodCIDRs, ",") == last {
			return
		}
		last = strings.Join(node.Spec.PodCIDRs, ",")
		select {
		case <-changed: // an older value no one has taken
		default:
		}
		changed <- node.Spec.PodCIDRs
	})
	if err != nil {
		return err
	}
	informers.Start(ctx)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case cidrs := <-changed:
			var prefixes []netip.Prefix
			for _, s := range cidrs {
				p, err := netip.ParsePrefix(s)
				if err != nil {
					return fmt.Errorf("pod range of node %s: %w", n.cfg.NodeName, err)
				}
				prefixes = append(prefixes, p)
			}
			conf := n.cfg.network(prefixes)
			if err := cni.Setup(conf); err != nil {
				return fmt.Errorf("pod network: %w", err)
			}
			if err := cni.WriteConfig(n.cfg.CNIConfDir, conf); err != nil {
				return fmt.Errorf("pod network: %w", err)
			}
		}
	}
}

// runProxy keeps the kernel's Service rules.
func (n *localNode) runProxy(ctx context.Context, door client.Interface) error {
	c := n.cfg
	me := client.As(door, client.User{Name: "system:kube-proxy", Groups: []string{"system:authenticated"}})
	informers := client.NewInformers(me)
	table, err := lb.NewNFT(c.servicesTable())
	if err != nil {
		return err
	}
	defer table.Close()
	p, err := proxy.New(proxy.Config{
		Informers: informers, NodeName: c.NodeName, V4: table, Conntrack: lb.Conntrack{}, Log: n.log.With("component", "proxy"),
	})
	if err != nil {
		return err
	}
	if err := routeLocalnet(); err != nil {
		n.log.Warn("node ports will not answer on the loopback address", "error", err)
	}
	informers.Start(ctx)
	n.proxy.Store(p)
	return p.Run(ctx)
}

// drainLinger is what further nodes get, beyond this one, to send connections
// elsewhere than to a pod that ends.
const drainLinger = 100 * time.Millisecond

// drain waits until a pod that ends gets no new connections.
func (n *localNode) drain(ctx context.Context, pod *corev1.Pod) {
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, a)
		}
	}
	if p := n.proxy.Load(); p != nil && !pod.Spec.HostNetwork {
		if err := p.Drained(ctx, addrs...); err != nil {
			return // its time is over
		}
	}
	t := time.NewTimer(drainLinger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// runDNS answers the cluster DNS's service address on this node.
func (n *localNode) runDNS(ctx context.Context, door client.Interface) error {
	c := n.cfg
	informers := client.NewInformers(client.As(door, client.User{Name: dnsUser, Groups: []string{"system:authenticated"}}))
	cluster, err := dns.FromInformers(informers)
	if err != nil {
		return err
	}
	if err := c.dnsAddress(true); err != nil {
		return fmt.Errorf("cluster DNS: %w", err)
	}
	server := dns.New(dns.Config{
		Listen: []string{net.JoinHostPort(c.ClusterDNS, "53")}, Domain: c.ClusterDomain,
		Cluster: cluster, ResolvConf: c.ResolvConf, Log: n.log.With("component", "dns"),
	})
	informers.Start(ctx)
	return server.Run(ctx)
}

// servicesTable is the kernel table of this cluster's Services.
func (c *config) servicesTable() lb.NFTConfig {
	return lb.NFTConfig{
		Name: c.cgroup() + "-services", Pods: netip.MustParsePrefix(c.ClusterCIDR), Services: netip.MustParsePrefix(c.ServiceCIDR),
	}
}

// dnsAddress puts the cluster DNS's service address on this machine, so that
// every node answers its own pods, or takes it away.
func (c *config) dnsAddress(present bool) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	ip := net.ParseIP(c.ClusterDNS)
	bits := 128
	if ip.To4() != nil {
		bits = 32
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)}, Scope: int(netlink.SCOPE_HOST)}
	if present {
		return netlink.AddrReplace(lo, addr)
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.IP.Equal(ip) {
			return netlink.AddrDel(lo, &a)
		}
	}
	return nil
}

// routeLocalnet lets connections from the loopback address be sent on to
// pods; the proxy's table guards what this opens.
func routeLocalnet() error {
	return os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0o644)
}

func (n *localNode) ready() <-chan struct{} { return n.kubelet.Ready() }

func (n *localNode) close() {
	if n.runtime == nil {
		return
	}
	if err := n.runtime.Close(); err != nil {
		n.log.Warn("close the runtime's connection", "error", err)
	}
}

// keyValues reads "key=value" pairs.
func keyValues(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not key=value", s)
		}
		out[k] = v
	}
	return out, nil
}
