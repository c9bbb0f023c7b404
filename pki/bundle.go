package pki

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coxswain/cox/internal/atomicfile"
)

// Config is what the certificates of one server depend on.
type Config struct {
	// Hostname and IPs are this machine's.
	Hostname string
	IPs      []net.IP
	// ServiceIPs are the first addresses of the service ranges, under which
	// pods find the API server.
	ServiceIPs []net.IP
	// ClusterDomain is "cluster.local" when empty.
	ClusterDomain string
	// ExtraSANs are further names and addresses of the API server.
	ExtraSANs []string
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	Log *slog.Logger
}

// KubeletClientUser is the user under which the API server calls kubelets. It
// is in no group; a binding to system:kubelet-api-admin gives it its rights.
const KubeletClientUser = "kube-apiserver-kubelet-client"

// FrontProxyUser is the user under which the API server calls aggregated
// servers, which trust it to name the real user.
const FrontProxyUser = "front-proxy-client"

// Bundle is all that a server holds. It is safe for concurrent use.
type Bundle struct {
	Dir string
	// CA signs servers, components and nodes; FrontProxyCA what may name
	// other users in headers; EtcdCA etcd's members and clients.
	CA, FrontProxyCA, EtcdCA *CA

	APIServer         *Leaf
	KubeletClient     *Leaf // API server to kubelets
	FrontProxyClient  *Leaf // API server to aggregated servers
	Admin             *Leaf // system:masters
	Scheduler         *Leaf
	ControllerManager *Leaf
	CloudController   *Leaf
	Proxy             *Leaf
	EtcdServer        *Leaf // serves clients and peers
	EtcdPeer          *Leaf
	EtcdClient        *Leaf

	// ServiceAccountKey signs service-account tokens.
	ServiceAccountKey crypto.Signer

	now func() time.Time
	log *slog.Logger
}

// Ensure makes what is missing in dir (mode 0700, keys 0600), keeps what is
// there, and replaces certificates that are near their end or whose names
// have changed; all but the API server's wait for their first use, because
// most servers need few of them and a file takes longer than a key. An
// authority is never replaced: one that is broken or expired is an error. Only
// one process may do this at a time.
func Ensure(dir string, c Config) (*Bundle, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	for _, d := range []string{dir, filepath.Join(dir, "etcd")} {
		if err := makeDir(d); err != nil {
			return nil, err
		}
	}
	b := &Bundle{Dir: dir, now: c.Now, log: c.Log}
	if err := b.ensureRoots(); err != nil {
		return nil, err
	}
	if err := b.ensureLeaves(&c); err != nil {
		return nil, err
	}
	return b, nil
}

// ensureRoots loads or makes the authorities and the service-account key.
// They have to last, so each is synced to disk; they are made side by side
// because that is what takes the time.
func (b *Bundle) ensureRoots() error {
	_, statErr := os.Stat(filepath.Join(b.Dir, "sa.pub"))
	fresh := errors.Is(statErr, fs.ErrNotExist)
	var errs [4]error
	var wg sync.WaitGroup
	wg.Go(func() { b.CA, errs[0] = ensureCA(filepath.Join(b.Dir, "ca"), "kubernetes", b.now()) })
	wg.Go(func() {
		b.FrontProxyCA, errs[1] = ensureCA(filepath.Join(b.Dir, "front-proxy-ca"), "front-proxy-ca", b.now())
	})
	wg.Go(func() { b.EtcdCA, errs[2] = ensureCA(filepath.Join(b.Dir, "etcd", "ca"), "etcd-ca", b.now()) })
	wg.Go(func() { b.ServiceAccountKey, errs[3] = ensureServiceAccountKey(b.Dir) })
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if fresh {
		return errors.Join(atomicfile.Sync(b.Dir), atomicfile.Sync(filepath.Join(b.Dir, "etcd")))
	}
	return nil
}

func ensureServiceAccountKey(dir string) (crypto.Signer, error) {
	keyPath, pubPath := filepath.Join(dir, "sa.key"), filepath.Join(dir, "sa.pub")
	data, err := os.ReadFile(keyPath)
	var key crypto.Signer
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(pubPath); err == nil {
			return nil, fmt.Errorf("%s is there but %s is not: restore the key from a backup, or remove both to begin with a new one", pubPath, keyPath)
		}
		if key, err = newKey(keyPath, true); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("read service-account key: %w", err)
	default:
		if key, err = parseKey(data); err != nil {
			return nil, fmt.Errorf("service-account key %s: %w", keyPath, err)
		}
	}
	if _, err := os.Stat(pubPath); err == nil {
		return key, nil
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode service-account public key: %w", err)
	}
	return key, atomicfile.WriteLight(pubPath, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

func (b *Bundle) ensureLeaves(c *Config) error {
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	server := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

	api := Spec{CommonName: "kube-apiserver", Usages: server, DNSNames: []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain,
	}, IPs: loopback()}
	api.addHost(c.Hostname)
	for _, ip := range append(append([]net.IP(nil), c.IPs...), c.ServiceIPs...) {
		api.addIP(ip)
	}
	for _, s := range c.ExtraSANs {
		api.addHost(s)
	}
	etcd := Spec{CommonName: "etcd", Usages: both, DNSNames: []string{"localhost"}, IPs: loopback()}
	etcd.addHost(c.Hostname)
	for _, ip := range c.IPs {
		etcd.addIP(ip)
	}
	for _, l := range []struct {
		to   **Leaf
		ca   *CA
		file string
		spec Spec
	}{
		{&b.APIServer, b.CA, "apiserver", api},
		{&b.KubeletClient, b.CA, "apiserver-kubelet-client", Spec{CommonName: KubeletClientUser, Usages: client}},
		{&b.FrontProxyClient, b.FrontProxyCA, "front-proxy-client", Spec{CommonName: FrontProxyUser, Usages: client}},
		{&b.Admin, b.CA, "admin", Spec{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Usages: client}},
		{&b.Scheduler, b.CA, "scheduler", Spec{CommonName: "system:kube-scheduler", Usages: client}},
		{&b.ControllerManager, b.CA, "controller-manager", Spec{CommonName: "system:kube-controller-manager", Usages: client}},
		{&b.CloudController, b.CA, "cloud-controller-manager", Spec{CommonName: "system:cloud-controller-manager", Usages: client}},
		{&b.Proxy, b.CA, "proxy", Spec{CommonName: "system:kube-proxy", Usages: client}},
		{&b.EtcdServer, b.EtcdCA, "etcd/server", etcd},
		{&b.EtcdPeer, b.EtcdCA, "etcd/peer", etcd},
		{&b.EtcdClient, b.EtcdCA, "etcd/client", Spec{CommonName: "kube-apiserver-etcd-client", Usages: client}},
	} {
		*l.to = newLeaf(l.ca, filepath.Join(b.Dir, l.file), l.spec, b.now, b.log)
	}
	b.APIServer.withCA = true
	_, err := b.APIServer.Certificate()
	return err
}

// Node returns the client certificate (user system:node:NAME, group
// system:nodes) and the serving certificate of a node's kubelet, made on first
// use, for nodes that this server runs itself. Other nodes get theirs by CSR.
func (b *Bundle) Node(name string, sans []string, ips []net.IP) (client, serving *Leaf, err error) {
	if err := safeName(name); err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(b.Dir, "nodes", name)
	if err := makeDir(dir); err != nil {
		return nil, nil, err
	}
	user := Spec{CommonName: "system:node:" + name, Organizations: []string{"system:nodes"}}
	user.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	client = newLeaf(b.CA, filepath.Join(dir, "kubelet-client"), user, b.now, b.log)
	host := Spec{CommonName: user.CommonName, Organizations: user.Organizations, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	host.addHost(name)
	for _, s := range sans {
		host.addHost(s)
	}
	for _, ip := range ips {
		host.addIP(ip)
	}
	serving = newLeaf(b.CA, filepath.Join(dir, "kubelet-serving"), host, b.now, b.log)
	return client, serving, nil
}

func loopback() []net.IP { return []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback} }

// addHost adds a DNS name or an address.
func (s *Spec) addHost(h string) {
	if h == "" {
		return
	}
	if ip := net.ParseIP(h); ip != nil {
		s.addIP(ip)
		return
	}
	for _, have := range s.DNSNames {
		if have == h {
			return
		}
	}
	s.DNSNames = append(s.DNSNames, h)
}

func (s *Spec) addIP(ip net.IP) {
	if v4 := ip.To4(); v4 != nil {
		ip = v4
	}
	if ip == nil {
		return
	}
	for _, have := range s.IPs {
		if have.Equal(ip) {
			return
		}
	}
	s.IPs = append(s.IPs, ip)
}
