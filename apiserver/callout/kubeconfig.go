package callout

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	kubeconfig "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// Target is a server that is asked. It keeps its connections.
type Target struct {
	url       string
	client    *http.Client
	transport *http.Transport
	cred      *Credential
}

// Open reads a kubeconfig file: the URL, the CA and the credentials are those
// of its current context. Client certificates and tokens that lie in files
// are read anew when those change. Credentials that need a program to be run
// are refused.
func Open(path string) (*Target, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	t, err := parse(data, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return t, nil
}

// Close ends idle connections.
func (t *Target) Close() { t.transport.CloseIdleConnections() }

func parse(data []byte, dir string) (*Target, error) {
	var c kubeconfig.Config
	if err := yaml.Unmarshal(data, &c); err != nil {
		// The text of the error can quote a credential.
		return nil, errors.New("is not valid YAML, or has fields of another type")
	}
	cluster, user, err := current(&c)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(cluster.Server)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("server %q is not a URL", cluster.Server)
	}
	cfg, err := tlsConfig(cluster, dir)
	if err != nil {
		return nil, err
	}
	cred, err := credential(user, dir)
	if err != nil {
		return nil, fmt.Errorf("user of the current context: %w", err)
	}
	cred.TLS(cfg)
	t := &Target{url: u.String(), cred: cred}
	t.transport = &http.Transport{
		TLSClientConfig: cfg, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
	}
	if cluster.ProxyURL != "" {
		proxy, err := url.Parse(cluster.ProxyURL)
		if err != nil {
			return nil, errors.New("proxy-url is not a URL") // it can hold a password
		}
		t.transport.Proxy = http.ProxyURL(proxy)
	}
	// A redirect could carry credentials and questions to anyone.
	t.client = &http.Client{Transport: t.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return t, nil
}

// current returns the cluster and user of the current context.
func current(c *kubeconfig.Config) (*kubeconfig.Cluster, *kubeconfig.AuthInfo, error) {
	if c.CurrentContext == "" {
		return nil, nil, errors.New("names no current-context")
	}
	var ctx *kubeconfig.Context
	for i := range c.Contexts {
		if c.Contexts[i].Name == c.CurrentContext {
			ctx = &c.Contexts[i].Context
		}
	}
	if ctx == nil {
		return nil, nil, fmt.Errorf("has no context %q", c.CurrentContext)
	}
	var cluster *kubeconfig.Cluster
	for i := range c.Clusters {
		if c.Clusters[i].Name == ctx.Cluster {
			cluster = &c.Clusters[i].Cluster
		}
	}
	if cluster == nil {
		return nil, nil, fmt.Errorf("has no cluster %q", ctx.Cluster)
	}
	user := &kubeconfig.AuthInfo{}
	if ctx.AuthInfo != "" {
		user = nil
		for i := range c.AuthInfos {
			if c.AuthInfos[i].Name == ctx.AuthInfo {
				user = &c.AuthInfos[i].AuthInfo
			}
		}
		if user == nil {
			return nil, nil, fmt.Errorf("has no user %q", ctx.AuthInfo)
		}
	}
	return cluster, user, nil
}

func tlsConfig(cluster *kubeconfig.Cluster, dir string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cluster.TLSServerName, InsecureSkipVerify: cluster.InsecureSkipTLSVerify}
	ca := cluster.CertificateAuthorityData
	if len(ca) == 0 && cluster.CertificateAuthority != "" {
		var err error
		if ca, err = os.ReadFile(under(dir, cluster.CertificateAuthority)); err != nil {
			return nil, fmt.Errorf("certificate-authority: %w", err)
		}
	}
	if len(ca) > 0 {
		if cfg.InsecureSkipVerify {
			return nil, errors.New("a certificate authority and insecure-skip-tls-verify exclude each other")
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("the certificate authority holds no certificate")
		}
	}
	return cfg, nil
}

func under(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// followed is a file's content, parsed again when the file has changed.
type followed[T any] struct {
	path  string
	parse func([]byte) (T, error)

	mu    sync.Mutex
	at    time.Time
	valid bool
	value T
}

func (f *followed[T]) get() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st, err := os.Stat(f.path)
	if err == nil && f.valid && st.ModTime().Equal(f.at) {
		return f.value, nil
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(f.path)
	}
	if err == nil {
		var v T
		if v, err = f.parse(data); err == nil {
			f.value, f.at, f.valid = v, st.ModTime(), true
		}
	}
	if err != nil && f.valid {
		return f.value, nil // half written: what was there is still the best
	}
	return f.value, err
}
