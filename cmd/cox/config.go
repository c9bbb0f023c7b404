package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	kubeletsettings "github.com/coxswain/cox/kubelet/settings"
)

// config is what a server and its node are told. Each field is a flag, an
// environment variable (COX_DATA_DIR for --data-dir) and a key of the
// configuration file (data-dir), in this order of precedence.
type config struct {
	DataDir    string
	Name       string
	ConfigFile string
	Kubeconfig string
	LogLevel   string

	BindAddress      string
	AdvertiseAddress string
	Port             int
	TLSSANs          []string
	EtcdServers      []string
	EtcdCAFile       string
	EtcdCertFile     string
	EtcdKeyFile      string
	AuditPolicyFile  string
	AuditLogPath     string
	// MaxReads and MaxWrites are how many requests are carried out at once:
	// priority and fairness divides their sum between its levels.
	MaxReads, MaxWrites int
	Fairness            bool

	auth  authConfig
	loops controllerConfig
	// election are the times of the components' leases.
	election electionConfig
	features features
	audit    auditConfig

	admission admissionConfig

	ClusterCIDR   string
	ServiceCIDR   string
	ClusterDNS    string
	ClusterDomain string
	NodePortRange string

	// What others do for this server, such as upstream's own components.
	NoControllers bool
	NoScheduler   bool
	NoNode        bool

	// Overlay is when pods' packets between nodes take a VXLAN, OverlayID its
	// number.
	Overlay   string
	OverlayID int

	// Of a node of its own (cox agent): the server and the token.
	Server  string
	Token   string
	NodeVia []string
	via     map[string]string // NodeVia by node
	control string            // the control socket, if not in runDir

	NodeName        string
	NodeIP          string
	NodeLabels      []string
	KubeletPort     int
	MaxPods         int
	RuntimeEndpoint string
	StaticPodPath   string
	CNIConfDir      string
	CNIBinDir       string
	ResolvConf      string
	RegistryDir     string
	ImageDir        string

	// KubeletConfig and KubeletConfigDir are the kubelet's own configuration;
	// what it says is in kubeletConf, and is overridden by the flags given.
	KubeletConfig, KubeletConfigDir    string
	CredentialConfig, CredentialBinDir string
	PluginDir, KubeletDir              string
	// HealthzAddress and MetricsAddress are those of the proxy's ports.
	HealthzAddress, MetricsAddress string
	kubeletConf                    *kubeletsettings.Settings
	given                          map[string]bool   // settings that were made, by flag
	shown                          map[string]string // all of them, as they may be shown
}

// defaultName is the name of the cluster that is given none.
const defaultName = "cox"

// When pods' packets between nodes take the overlay.
const (
	overlayAuto   = "auto"
	overlayAlways = "always"
)

// flags registers the flags of a server and its node with their defaults.
func (c *config) flags(fs *pflag.FlagSet) {
	c.commonFlags(fs)
	c.serverFlags(fs)
	c.nodeFlags(fs)
}

// agentFlags registers the flags of a node of its own.
func (c *config) agentFlags(fs *pflag.FlagSet) {
	c.commonFlags(fs)
	c.nodeFlags(fs)
	fs.Lookup("config").DefValue = "/etc/cox/agent.yaml"
	c.ConfigFile = "/etc/cox/agent.yaml"
	fs.StringVar(&c.Server, "server", "", "the API server to join, such as https://192.0.2.1:6443")
	fs.StringVar(&c.Token, "token", "", "what `cox token create` printed on the server; needed until the node has joined (better given as COX_TOKEN, which other users cannot see)")
	fs.StringSliceVar(&c.NodeVia, "node-via", nil, "another address under which this machine reaches a node (NODE=ADDRESS)")
}

func (c *config) commonFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.DataDir, "data-dir", "/var/lib/cox", "folder of everything this cluster keeps on this machine")
	fs.StringVar(&c.Name, "name", defaultName, "name of the cluster; tells clusters side by side on one machine apart")
	fs.StringVar(&c.ConfigFile, "config", "/etc/cox/config.yaml", "file with any of these settings, by the flags' names")
	fs.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
}

func (c *config) serverFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Kubeconfig, "write-kubeconfig", "/etc/cox/kubeconfig", "where the administrator's kubeconfig is written (mode 0600)")
	fs.StringVar(&c.BindAddress, "bind-address", "", "address the API server listens on (default: all)")
	fs.StringVar(&c.AdvertiseAddress, "advertise-address", "", "address under which others reach this API server (default: the node's)")
	fs.IntVar(&c.Port, "https-listen-port", 6443, "port of the API server")
	fs.StringSliceVar(&c.TLSSANs, "tls-san", nil, "further names and addresses for the API server's certificate")
	fs.StringSliceVar(&c.EtcdServers, "etcd-servers", nil, "an external etcd cluster's URLs instead of the embedded one")
	fs.StringVar(&c.EtcdCAFile, "etcd-cafile", "", "CA of the external etcd")
	fs.StringVar(&c.EtcdCertFile, "etcd-certfile", "", "client certificate for the external etcd")
	fs.StringVar(&c.EtcdKeyFile, "etcd-keyfile", "", "client key for the external etcd")
	fs.StringVar(&c.AuditPolicyFile, "audit-policy-file", "", "audit policy (audit.k8s.io/v1); without one nothing is recorded")
	fs.StringVar(&c.AuditLogPath, "audit-log-path", "", "file of the audit records")
	fs.BoolVar(&c.Fairness, "enable-priority-and-fairness", true, "let requests wait for their turn by the cluster's FlowSchemas and PriorityLevelConfigurations")
	fs.IntVar(&c.MaxReads, "max-requests-inflight", 400, "how many requests are carried out at once, together with --max-mutating-requests-inflight")
	fs.IntVar(&c.MaxWrites, "max-mutating-requests-inflight", 200, "see --max-requests-inflight")
	c.audit.flags(fs)
	c.admission.flags(fs)
	c.auth.flags(fs)
	c.loops.flags(fs)
	c.election.flags(fs)
	c.features.gateFlag(fs)
	c.features.serveFlag(fs)

	fs.StringVar(&c.ClusterCIDR, "cluster-cidr", "10.42.0.0/16", "range of the pods' addresses")
	fs.StringVar(&c.ServiceCIDR, "service-cidr", "10.43.0.0/16", "range of the Services' addresses")
	fs.StringVar(&c.ClusterDNS, "cluster-dns", "", "address of the cluster DNS (default: the tenth of the service range)")
	fs.StringVar(&c.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	fs.StringVar(&c.NodePortRange, "service-node-port-range", "30000-32767", "ports for NodePort Services")
	fs.BoolVar(&c.NoControllers, "disable-controller-manager", false, "run no controllers; another controller manager does")
	fs.BoolVar(&c.NoScheduler, "disable-scheduler", false, "run no scheduler; another one does")
	fs.BoolVar(&c.NoNode, "disable-agent", false, "do not make this machine a node: no containers, kubelet, Service rules or DNS")
	fs.StringVar(&c.Overlay, "overlay", overlayAuto, "which nodes' pods reach each other through VXLAN: auto (of nodes that are not on one link) or always")
}

func (c *config) nodeFlags(fs *pflag.FlagSet) {
	host, _ := os.Hostname()
	fs.StringVar(&c.NodeName, "node-name", strings.ToLower(host), "name of this machine's node")
	fs.StringVar(&c.NodeIP, "node-ip", "", "address of the node (default: that of the default route)")
	fs.StringSliceVar(&c.NodeLabels, "node-label", nil, "labels that the node registers with (key=value)")
	fs.IntVar(&c.KubeletPort, "kubelet-port", 10250, "port of the kubelet's API")
	fs.IntVar(&c.MaxPods, "max-pods", 110, "how many pods the node takes")
	fs.StringVar(&c.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket of another runtime instead of the embedded containerd")
	fs.StringVar(&c.StaticPodPath, "pod-manifest-path", "", "folder of static pods (default: DATA-DIR/manifests)")
	fs.StringVar(&c.CNIConfDir, "cni-conf-dir", "", "folder of CNI configurations (default: DATA-DIR/cni/net.d)")
	fs.StringVar(&c.CNIBinDir, "cni-bin-dir", "", "further folder of CNI plugins")
	fs.StringVar(&c.KubeletConfig, "kubelet-config", "", "kubelet configuration file (KubeletConfiguration, kubelet.config.k8s.io/v1beta1)")
	fs.StringVar(&c.KubeletConfigDir, "kubelet-config-dir", "", "folder of drop-ins (*.conf) to the kubelet configuration file")
	fs.StringVar(&c.KubeletDir, "kubelet-dir", "", "folder of the kubelet (default: DATA-DIR/kubelet; /var/lib/kubelet is where CSI drivers expect it)")
	fs.StringVar(&c.PluginDir, "plugin-dir", "", "folder of the sockets of plugins and drivers, where that is not --kubelet-dir")
	fs.StringVar(&c.HealthzAddress, "healthz-bind-address", "0.0.0.0:10256", "where the node's proxy answers load balancers whether it is healthy; empty for nowhere")
	fs.StringVar(&c.MetricsAddress, "metrics-bind-address", "127.0.0.1:10249", "where the node's proxy shows its metrics; empty for nowhere")
	fs.StringVar(&c.CredentialConfig, "image-credential-provider-config", "", "configuration of the plugins that know registries' credentials (CredentialProviderConfig)")
	fs.StringVar(&c.CredentialBinDir, "image-credential-provider-bin-dir", "", "folder of these plugins")
	c.imageFlags(fs)
	fs.StringVar(&c.ResolvConf, "resolv-conf", "", "resolver configuration for pods and for names outside the cluster (default: /etc/resolv.conf)")
}

// load fills in what was not said on the command line, from the environment
// and the configuration file, then checks it all. An error names the setting
// and where it came from.
func (c *config) load(fs *pflag.FlagSet) error {
	if v, ok := os.LookupEnv("COX_CONFIG"); ok && !fs.Changed("config") {
		c.ConfigFile = v
	}
	file := map[string]any{}
	raw, err := os.ReadFile(c.ConfigFile)
	switch {
	case err == nil:
		if err := yaml.UnmarshalStrict(raw, &file); err != nil {
			return fmt.Errorf("%s is not a valid configuration: %w", c.ConfigFile, err)
		}
	case !os.IsNotExist(err) || fs.Changed("config"):
		return fmt.Errorf("read the configuration: %w", err)
	}
	for key := range file {
		if fs.Lookup(key) == nil {
			return fmt.Errorf("%s: unknown setting %q; the settings are the flags of `cox server --help` without the dashes", c.ConfigFile, key)
		}
	}
	var failed error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed || failed != nil || f.Name == "help" {
			return
		}
		env := "COX_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := os.LookupEnv(env); ok {
			if err := fs.Set(f.Name, v); err != nil {
				failed = fmt.Errorf("environment variable %s: %w", env, err)
			}
			return
		}
		if v, ok := file[f.Name]; ok {
			if err := fs.Set(f.Name, flagText(v)); err != nil {
				failed = fmt.Errorf("%s: %s: %w", c.ConfigFile, f.Name, err)
			}
		}
	})
	if failed != nil {
		return failed
	}
	c.given = map[string]bool{}
	fs.Visit(func(f *pflag.Flag) { c.given[f.Name] = true })
	c.shown = shownFlags(fs)
	return c.complete()
}

// shownFlags are all flags with their values, except for secrets.
func shownFlags(fs *pflag.FlagSet) map[string]string {
	out := map[string]string{}
	fs.VisitAll(func(f *pflag.Flag) {
		if out[f.Name] = f.Value.String(); strings.HasSuffix(f.Name, "token") && f.Value.String() != "" {
			out[f.Name] = "CLASSIFIED"
		}
	})
	return out
}

// flagText turns a YAML value into what the flag would be given.
func flagText(v any) string {
	if list, ok := v.([]any); ok {
		parts := make([]string, len(list))
		for i, p := range list {
			parts[i] = fmt.Sprint(p)
		}
		return strings.Join(parts, ",")
	}
	if f, ok := v.(float64); ok && f == float64(int64(f)) {
		return fmt.Sprint(int64(f))
	}
	return fmt.Sprint(v)
}

// complete derives the settings that follow from others, and checks them.
func (c *config) complete() error {
	abs, err := filepath.Abs(c.DataDir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	c.DataDir = abs
	if c.Name == "" || len(c.Name) > 16 || strings.Trim(c.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("--name %q: want up to 16 lower-case letters, digits and dashes, since sockets and nftables tables are named after it", c.Name)
	}
	if c.Server == "" { // else the server says what the cluster is like
		if err := c.completeCluster(); err != nil {
			return err
		}
		if err := c.loops.complete(); err != nil {
			return err
		}
		if err := errors.Join(c.election.complete(), c.features.complete()); err != nil {
			return err
		}
	}
	return c.completeNode()
}

// completeCluster checks what holds for the whole cluster.
func (c *config) completeCluster() error {
	if _, err := netip.ParsePrefix(c.ClusterCIDR); err != nil {
		return fmt.Errorf("--cluster-cidr: %w", err)
	}
	services, err := netip.ParsePrefix(c.ServiceCIDR)
	if err != nil {
		return fmt.Errorf("--service-cidr: %w", err)
	}
	if services.Addr().BitLen()-services.Bits() < 4 {
		return fmt.Errorf("--service-cidr %s is too small: it must hold at least 16 addresses", services)
	}
	if pods := netip.MustParsePrefix(c.ClusterCIDR); pods.Overlaps(services) {
		return fmt.Errorf("--cluster-cidr %s and --service-cidr %s overlap", pods, services)
	}
	if c.ClusterDNS == "" {
		a := services.Masked().Addr()
		for range 10 {
			a = a.Next()
		}
		c.ClusterDNS = a.String()
	}
	if a, err := netip.ParseAddr(c.ClusterDNS); err != nil || a.Zone() != "" {
		return fmt.Errorf("--cluster-dns %q is not an address", c.ClusterDNS)
	}
	// It becomes a line of every pod's resolv.conf.
	if bad := validation.IsDNS1123Subdomain(strings.TrimSuffix(c.ClusterDomain, ".")); len(bad) > 0 {
		return fmt.Errorf("--cluster-domain %q: %s", c.ClusterDomain, bad[0])
	}
	if c.Overlay != overlayAuto && c.Overlay != overlayAlways {
		return fmt.Errorf("--overlay %q: want %s or %s", c.Overlay, overlayAuto, overlayAlways)
	}
	if c.OverlayID == 0 {
		// Clusters side by side must differ in it.
		sum := sha256.Sum256([]byte("overlay/" + c.Name))
		c.OverlayID = int(sum[0])<<16 | int(sum[1])<<8 | int(sum[2])
	}
	if _, _, err := c.nodePorts(); err != nil {
		return err
	}
	return nil
}

// completeNode checks what this machine's node is told.
func (c *config) completeNode() error {
	c.via = map[string]string{}
	for _, pair := range c.NodeVia {
		node, address, ok := strings.Cut(pair, "=")
		if _, err := netip.ParseAddr(address); !ok || err != nil {
			return fmt.Errorf("--node-via %q: want NODE=ADDRESS", pair)
		}
		c.via[node] = address
	}
	if c.NodeIP == "" {
		c.NodeIP = defaultIP()
	}
	if net.ParseIP(c.NodeIP) == nil {
		return fmt.Errorf("--node-ip %q is not an address", c.NodeIP)
	}
	if c.AdvertiseAddress == "" {
		c.AdvertiseAddress = c.NodeIP
	}
	if err := c.loadKubelet(); err != nil {
		return err
	}
	if c.StaticPodPath == "" {
		c.StaticPodPath = filepath.Join(c.DataDir, "manifests")
	}
	if c.CNIConfDir == "" {
		c.CNIConfDir = filepath.Join(c.DataDir, "cni", "net.d")
	}
	if c.ImageDir == "" {
		c.ImageDir = c.dir("images")
	}
	if c.ResolvConf == "" {
		c.ResolvConf = resolvConf()
	}
	return nil
}

// nodePorts returns the first node port and how many there are.
func (c *config) nodePorts() (base, size int, err error) {
	var last int
	if _, err := fmt.Sscanf(c.NodePortRange, "%d-%d", &base, &last); err != nil || base < 1 || last > 65535 || last < base {
		return 0, 0, fmt.Errorf("--service-node-port-range %q: want FIRST-LAST, such as 30000-32767", c.NodePortRange)
	}
	return base, last - base + 1, nil
}

// serviceIP is the first address of the service range: the API server's.
func (c *config) serviceIP() netip.Addr {
	return netip.MustParsePrefix(c.ServiceCIDR).Masked().Addr().Next()
}

func (c *config) dir(parts ...string) string {
	return filepath.Join(append([]string{c.DataDir}, parts...)...)
}

// serverURL is how clients on this machine reach the API server.
func (c *config) serverURL() string {
	host := "127.0.0.1"
	if c.BindAddress != "" && c.BindAddress != "0.0.0.0" && c.BindAddress != "::" {
		host = c.BindAddress
	}
	return "https://" + net.JoinHostPort(host, fmt.Sprint(c.Port))
}

// defaultIP is the address that a packet to the outside would carry. Nothing
// is sent: connecting a UDP socket only looks up the route.
func defaultIP() string {
	for _, probe := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", probe)
		if err != nil {
			continue
		}
		defer conn.Close()
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok && !a.IP.IsLoopback() {
			return a.IP.String()
		}
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

// resolvConf is the host's real resolver configuration: behind
// systemd-resolved /etc/resolv.conf names only a stub on the loopback
// interface, which pods cannot reach.
func resolvConf() string {
	raw, err := os.ReadFile("/etc/resolv.conf")
	if err == nil && strings.Contains(string(raw), "nameserver 127.0.0.53") {
		if _, err := os.Stat("/run/systemd/resolve/resolv.conf"); err == nil {
			return "/run/systemd/resolve/resolv.conf"
		}
	}
	return "/etc/resolv.conf"
}
