package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/datapath/lb"
	"github.com/coxswain/cox/dns"
	"github.com/coxswain/cox/internal/component"
	"github.com/coxswain/cox/internal/memory"
	"github.com/coxswain/cox/kubelet"
	kubeletserver "github.com/coxswain/cox/kubelet/server"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/proxy"
	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/images"
)

// access is how a node's parts reach the cluster, each as who it is.
type access struct {
	// kubelet is the node's own identity, under which the pod network reads
	// too.
	kubelet, proxy, dns client.Interface
	// server is the API server's address and port, for metrics.
	server string
	// serving is the certificate of the kubelet's API, clientCAs those that
	// its clients' certificates are verified by.
	serving   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	clientCAs func() *x509.CertPool
}

// localAccess is that of the node which runs in the server's process.
func localAccess(c *config, bundle *pki.Bundle, door client.Interface) (*access, error) {
	_, serving, err := bundle.Node(c.NodeName, []string{c.NodeName}, []net.IP{net.ParseIP(c.NodeIP)})
	if err != nil {
		return nil, err
	}
	as := func(user string, groups ...string) client.Interface {
		return client.As(door, client.User{Name: user, Groups: append(groups, "system:authenticated")})
	}
	return &access{
		kubelet: as("system:node:"+c.NodeName, "system:nodes"), proxy: as("system:kube-proxy"), dns: as(dnsUser), server: net.JoinHostPort(c.AdvertiseAddress, fmt.Sprint(c.Port)),
		serving:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serving.Certificate() },
		clientCAs: bundle.CA.Pool,
	}, nil
}

// localNode is this machine as a node: runtime, kubelet, pod network, proxy
// and DNS.
type localNode struct {
	cfg     *config
	log     *slog.Logger
	group   *component.Group
	report  *report
	runtime *runtime.Runtime
	kubelet *kubelet.Kubelet
	// requests are what the kubelet asks of the API server.
	requests *client.Metrics
	proxy    atomic.Pointer[proxy.Proxy]
	me       atomic.Pointer[corev1.Node] // as last seen; nil before
	idle     atomic.Pointer[memory.Idle] // looks with the kubelet's upkeep
}

func newLocalNode(c *config, log *slog.Logger, group *component.Group, rep *report) *localNode {
	return &localNode{cfg: c, log: log, group: group, report: rep}
}

// runtimeConfig says where this cluster's containerd lives on this machine.
func (c *config) runtimeConfig(log *slog.Logger) runtime.Config {
	cfg := runtime.Config{
		Root: c.dir("containerd"), State: c.runDir() + "/containerd",
		CNIConfDir: c.CNIConfDir, RegistryDir: c.RegistryDir, CgroupRoot: "/" + c.cgroup(), Log: log,
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

// start runs the node's parts.
func (n *localNode) start(ctx context.Context, to *access) error {
	c := n.cfg
	if err := os.MkdirAll(c.StaticPodPath, 0o700); err != nil {
		return fmt.Errorf("folder of static pods: %w", err)
	}
	if err := c.placeKubelet(); err != nil {
		return fmt.Errorf("--kubelet-dir: %w", err)
	}
	n.importArchives(ctx)
	labels, err := keyValues(c.NodeLabels)
	if err != nil {
		return fmt.Errorf("--node-label: %w", err)
	}
	runtimeService, imageService := n.runtime.CRI()
	n.requests = client.NewMetrics()
	config := kubelet.Config{
		Client: n.requests.Counted(to.kubelet, to.server), NodeName: c.NodeName, NodeIPs: []string{c.NodeIP},
		RootDir: c.kubeletDir(), PluginDir: c.PluginDir, LogDir: c.dir("log", "pods"), ContainerLogDir: c.dir("log", "containers"),
		Runtime: runtimeService, Images: imageService, PullProgress: n.runtime.PullProgress,
		StaticPodDir: c.StaticPodPath, DefaultPod: func(p *corev1.Pod) { podspec.Default(&p.Spec) },
		ClusterDNS: []string{c.ClusterDNS}, ClusterDomain: c.ClusterDomain, ResolvConf: c.ResolvConf,
		CgroupRoot: "/" + c.cgroup(), Labels: labels,
		Credentials: kubelet.Credentials{ConfigFile: c.CredentialConfig, BinDir: c.CredentialBinDir},
		Drain:       n.drain, Upkept: n.upkept, Version: gitVersion, Log: n.log.With("component", "kubelet"),
	}
	if err := c.applyKubelet(&config); err != nil {
		return fmt.Errorf("--kubelet-config: %w", err)
	}
	for _, w := range c.kubeletConf.Warnings {
		n.log.Warn("kubelet configuration: " + w)
	}
	k, err := kubelet.New(config)
	if err != nil {
		return err
	}
	n.kubelet = k
	api, err := n.kubeletAPI(k, to)
	if err != nil {
		return fmt.Errorf("the kubelet's API: %w", err)
	}
	n.group.Go("kubelet", k.Run)
	n.group.Go("kubelet-api", func(ctx context.Context) error {
		l, err := net.Listen("tcp", c.kubeletListen())
		if err != nil {
			return fmt.Errorf("the kubelet's API cannot listen: %w; choose another port with --kubelet-port", err)
		}
		return api.Serve(ctx, l)
	})
	n.group.Go("pod-network", func(ctx context.Context) error { return n.runNetwork(ctx, to.kubelet) })
	n.group.Go("proxy", func(ctx context.Context) error { return n.runProxy(ctx, to.proxy) })
	go n.demoImage(ctx)
	n.group.Go("dns", func(ctx context.Context) error { return n.runDNS(ctx, to.dns) })
	return nil
}

// upkept gives back memory, when a process that is a node has come to rest.
func (n *localNode) upkept() {
	if i := n.idle.Load(); i != nil {
		i.Look(time.Now())
	}
}

// kubeletAPI makes the HTTPS API through which logs and shells are reached.
func (n *localNode) kubeletAPI(k *kubelet.Kubelet, to *access) (*kubeletserver.Server, error) {
	runtimeService, imageService := n.runtime.CRI()
	config := kubeletserver.Config{
		Node: k, Runtime: runtimeService, Images: imageService, Client: to.kubelet,
		GetCertificate: to.serving, ClientCAs: to.clientCAs,
		RootDir: n.cfg.kubeletDir(), Groups: k, CheckpointDir: n.cfg.dir("kubelet", "checkpoints"),
		Metrics: append(k.Metrics(), n.runtime.Operations(), n.requests),
		Version: gitVersion, Flags: n.cfg.shown, Log: n.log.With("component", "kubelet-api"),
	}
	if err := n.cfg.kubeletConf.ApplyServer(&config); err != nil {
		return nil, fmt.Errorf("--kubelet-config: %w", err)
	}
	return kubeletserver.New(config)
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

// runProxy keeps the kernel's Service rules.
func (n *localNode) runProxy(ctx context.Context, me client.Interface) error {
	c := n.cfg
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
	if err := lb.SetTimeouts("/proc/sys/net/netfilter"); err != nil {
		n.log.Warn("connections are forgotten as early as the kernel does by itself", "error", err)
	}
	informers.Start(ctx)
	n.proxy.Store(p)
	return n.answerForProxy(ctx, p)
}

// answerForProxy runs the proxy with its health and metrics ports.
func (n *localNode) answerForProxy(ctx context.Context, p *proxy.Proxy) error {
	metrics, err := p.Metrics()
	if err != nil {
		return err
	}
	log := n.log.With("component", "proxy")
	ctx, cancel := context.WithCancel(ctx)
	var ports sync.WaitGroup
	defer ports.Wait()
	defer cancel()
	ports.Go(func() { proxy.Answer(ctx, log, "health port", n.cfg.HealthzAddress, p.Healthz(n.me.Load)) })
	ports.Go(func() { proxy.Answer(ctx, log, "metrics port", n.cfg.MetricsAddress, metrics) })
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
func (n *localNode) runDNS(ctx context.Context, me client.Interface) error {
	c := n.cfg
	informers := client.NewInformers(me)
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
