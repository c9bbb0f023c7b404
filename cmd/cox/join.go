package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/pki"
)

// settingsName is the ConfigMap in kube-system from which nodes learn what
// the cluster is like.
const settingsName = "cox-cluster"

// settings are what every node of a cluster must agree on.
type settings struct {
	ClusterCIDR   string
	ServiceCIDR   string
	ClusterDNS    string
	ClusterDomain string
	Overlay       string
	OverlayID     string
}

func (c *config) settings() settings {
	return settings{c.ClusterCIDR, c.ServiceCIDR, c.ClusterDNS, c.ClusterDomain, c.Overlay, strconv.Itoa(c.OverlayID)}
}

func (s settings) data() map[string]string {
	return map[string]string{
		"clusterCIDR": s.ClusterCIDR, "serviceCIDR": s.ServiceCIDR, "clusterDNS": s.ClusterDNS,
		"clusterDomain": s.ClusterDomain, "overlay": s.Overlay, "overlayID": s.OverlayID,
	}
}

// adopt makes the cluster's settings this node's.
func (c *config) adopt(data map[string]string) error {
	c.ClusterCIDR, c.ServiceCIDR, c.ClusterDNS = data["clusterCIDR"], data["serviceCIDR"], data["clusterDNS"]
	c.ClusterDomain, c.Overlay = data["clusterDomain"], data["overlay"]
	id, err := strconv.Atoi(data["overlayID"])
	if err != nil || id < 1 || id >= 1<<24 {
		return fmt.Errorf("the cluster's settings: overlay ID %q", data["overlayID"])
	}
	c.OverlayID, c.NodePortRange = id, "30000-32767"
	if err := c.completeCluster(); err != nil {
		return fmt.Errorf("the cluster's settings: %w", err)
	}
	return nil
}

// joined is what an agent holds of its cluster.
type joined struct {
	cfg     *config
	log     *slog.Logger
	address string // host:port of the server
	url     string
	caPEM   []byte
	ca      *x509.Certificate
	pool    *x509.CertPool

	client, serving *pki.Requested
	servers         *servers
	dialer          *connrotation.Dialer
	door            client.Interface
}

// serverAddress reads --server.
func (c *config) serverAddress() (address, base string, err error) {
	u, err := url.Parse(c.Server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return "", "", fmt.Errorf("--server %q: want https://HOST:PORT", c.Server)
	}
	port := u.Port()
	if port == "" {
		port = "6443"
	}
	address = net.JoinHostPort(u.Hostname(), port)
	return address, "https://" + address, nil
}

// join makes this machine a member: the cluster's authority, found by the hash
// in the token, and a client certificate, signed for the token. On later
// starts it needs neither token nor server.
func (c *config) join(ctx context.Context, log *slog.Logger) (*joined, error) {
	j := &joined{cfg: c, log: log, dialer: connrotation.NewDialer((&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext)}
	var err error
	if j.address, j.url, err = c.serverAddress(); err != nil {
		return nil, err
	}
	if err := j.authority(ctx); err != nil {
		return nil, err
	}
	j.servers = openServers(j.address, c.dir("agent", "servers.json"), j.dialer.DialContext, log)
	user := "system:node:" + c.NodeName
	j.client, err = pki.NewRequested(pki.RequestedConfig{
		Base: c.dir("agent", "kubelet-client"), CA: j.ca, Log: log, Changed: j.dialer.CloseAll,
		Spec: func() pki.Spec {
			return pki.Spec{CommonName: user, Organizations: []string{"system:nodes"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		},
		Sign: func(ctx context.Context, csr []byte) ([]byte, error) { return j.sign(ctx, j.door, csr, false) },
	})
	if err != nil {
		return nil, err
	}
	j.serving, err = pki.NewRequested(pki.RequestedConfig{
		Base: c.dir("agent", "kubelet-serving"), CA: j.ca, Log: log,
		Spec: func() pki.Spec {
			return pki.Spec{CommonName: user, Organizations: []string{"system:nodes"}, DNSNames: []string{c.NodeName},
				IPs: []net.IP{net.ParseIP(c.NodeIP)}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		},
		Sign: func(ctx context.Context, csr []byte) ([]byte, error) { return j.sign(ctx, j.door, csr, true) },
	})
	if err != nil {
		return nil, err
	}
	if !j.client.Have() {
		if err := j.bootstrap(ctx); err != nil {
			return nil, err
		}
	}
	if j.door, err = j.remote(func(t *tls.Config) {
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return j.client.Certificate() }
	}, ""); err != nil {
		return nil, err
	}
	return j, j.learn(ctx)
}

// authority loads the cluster's authority, or gets it from the server and
// pins it by the token's hash.
func (j *joined) authority(ctx context.Context) error {
	path := j.cfg.dir("agent", "ca.crt")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		token, terr := j.cfg.joinToken()
		if terr != nil {
			return terr
		}
		if err := retryNetwork(ctx, j.log, func() error {
			tryCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			data, err = pki.DiscoverCA(tryCtx, j.address, token.CAHash)
			return err
		}); err != nil {
			return err
		}
		if err := os.MkdirAll(j.cfg.dir("agent"), 0o700); err != nil {
			return err
		}
		err = atomicfile.Write(path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("the cluster's certificate authority: %w", err)
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil || len(certs) != 1 {
		return fmt.Errorf("%s is damaged: remove %s to join anew with a token", path, j.cfg.dir("agent"))
	}
	j.caPEM, j.ca, j.pool = data, certs[0], x509.NewCertPool()
	j.pool.AddCert(j.ca)
	return nil
}

func (c *config) joinToken() (pki.JoinToken, error) {
	if c.Token == "" {
		return pki.JoinToken{}, errors.New("this machine has not joined yet and needs --token: make one with `cox token create` on the server")
	}
	return pki.ParseJoinToken(c.Token)
}

// bootstrap gets the first client certificate for the token.
func (j *joined) bootstrap(ctx context.Context) error {
	token, err := j.cfg.joinToken()
	if err != nil {
		return err
	}
	if pki.SPKIHash(j.ca) != token.CAHash {
		return fmt.Errorf("the token is of another cluster than the one this machine joined before: remove %s to leave that", j.cfg.dir("agent"))
	}
	if j.door, err = j.remote(nil, token.BootstrapToken.String()); err != nil {
		return err
	}
	err = retryNetwork(ctx, j.log, func() error {
		tryCtx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return j.client.Ensure(tryCtx)
	})
	switch {
	case apierrors.IsUnauthorized(err):
		return errors.New("the server refuses the token: it is wrong or has expired; make another with `cox token create` on the server")
	case err != nil:
		return fmt.Errorf("get a certificate for the token: %w", err)
	}
	return nil
}

// retryNetwork repeats f while the server cannot be reached.
func retryNetwork(ctx context.Context, log *slog.Logger, f func() error) error {
	for delay := 250 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
		err := f()
		var op *net.OpError
		if err == nil || !errors.As(err, &op) || op.Op != "dial" && op.Op != "read" {
			return err
		}
		log.Warn("the server cannot be reached, will retry", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(delay):
		}
	}
}

// remote is a door to the servers over connections that end when the client
// certificate is renewed, so that none outlives the old one.
func (j *joined) remote(certificate func(*tls.Config), bearer string) (client.Interface, error) {
	// The one name that every server's certificate has, and nobody else's.
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: j.pool, ServerName: "kubernetes.default.svc", NextProtos: []string{"h2", "http/1.1"}}
	if certificate != nil {
		certificate(conf)
	}
	transport := &http.Transport{
		DialTLSContext:    func(ctx context.Context, _, _ string) (net.Conn, error) { return j.servers.connect(ctx, conf) },
		ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 4,
		// A server that vanished is noticed before its node is missed. The lease's
		// renewals keep the connection busy: no ping is sent in good times.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
	return client.Remote(&rest.Config{Host: j.url, Transport: transport, BearerToken: bearer, UserAgent: "cox-agent/" + gitVersion})
}

// sign has a certificate request signed by the cluster. It waits until ctx
// ends, which may be for a human's approval.
func (j *joined) sign(ctx context.Context, door client.Interface, csr []byte, serving bool) ([]byte, error) {
	signer, usage := certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth
	if serving {
		signer, usage = certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth
	}
	cert, name, err := requestSigned(ctx, door, csr, signer, usage)
	if cert == nil && err == nil {
		err = fmt.Errorf("certificate request %s was not approved: does a node %q exist already? Then remove that with `cox node remove %[2]s` on the server", name, j.cfg.NodeName)
	}
	return cert, err
}

// learn takes over the cluster's settings, from the last time if the server
// is away.
func (j *joined) learn(ctx context.Context) error {
	path := j.cfg.dir("agent", "cluster.json")
	tryCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m, err := client.ConfigMaps.In(j.door, metav1.NamespaceSystem).Get(tryCtx, settingsName)
	if err == nil {
		if err := j.cfg.adopt(m.Data); err != nil {
			return err
		}
		data, err := json.Marshal(m.Data)
		if err != nil {
			return err
		}
		return atomicfile.Write(path, data, 0o600)
	}
	if ok, kept := j.cfg.adoptKept(); ok {
		j.log.Warn("the server cannot be asked for the cluster's settings; those of the last start are used", "error", err)
		return kept
	}
	return fmt.Errorf("ask the server for the cluster's settings: %w", err)
}

// adoptKept makes the settings of an agent's last start this machine's; ok is
// false where no agent has run.
func (c *config) adoptKept() (ok bool, err error) {
	raw, err := os.ReadFile(c.dir("agent", "cluster.json"))
	if err != nil {
		return false, nil
	}
	data := map[string]string{}
	if err := json.Unmarshal(raw, &data); err != nil {
		return true, fmt.Errorf("%s is damaged: %w", c.dir("agent", "cluster.json"), err)
	}
	return true, c.adopt(data)
}

// writeSettings tells the nodes what the cluster is like.
func (cp *controlPlane) writeSettings(ctx context.Context) error {
	want := cp.cfg.settings().data()
	maps := client.ConfigMaps.In(cp.root, metav1.NamespaceSystem)
	_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: settingsName}, Data: want})
	if apierrors.IsAlreadyExists(err) {
		_, err = maps.Mutate(ctx, settingsName, "", func(m *corev1.ConfigMap) (bool, error) {
			same := len(m.Data) == len(want)
			for k, v := range want {
				same = same && m.Data[k] == v
			}
			m.Data = want
			return !same, nil
		})
	}
	if err != nil {
		return fmt.Errorf("settings for nodes: %w", err)
	}
	return nil
}
