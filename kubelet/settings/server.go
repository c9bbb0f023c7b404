package settings

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"github.com/coxswain/cox/kubelet/server"
)

// ApplyServer puts the settings into the configuration of the kubelet's API.
// Certificates that the settings name replace those in c.
func (s *Settings) ApplyServer(c *server.Config) error {
	c.Anonymous, c.NoTokens = *s.Authentication.Anonymous.Enabled, !*s.Authentication.Webhook.Enabled
	c.AlwaysAllow = s.Authorization.Mode == kubeletv1beta1.KubeletAuthorizationModeAlwaysAllow
	c.TokenTTL = s.Authentication.Webhook.CacheTTL.Duration
	c.AllowedTTL, c.DeniedTTL = s.Authorization.Webhook.CacheAuthorizedTTL.Duration, s.Authorization.Webhook.CacheUnauthorizedTTL.Duration
	c.NoDebugging, c.NoSystemLogs = !*s.EnableDebuggingHandlers, !*s.EnableSystemLogHandler
	c.LogQuery = *s.EnableSystemLogQuery
	c.Configuration = s.KubeletConfiguration
	var err error
	if c.MinTLS, err = tlsVersion(s.TLSMinVersion); err != nil {
		return err
	}
	if c.CipherSuites, err = cipherSuites(s.TLSCipherSuites); err != nil {
		return err
	}
	for _, id := range s.TLSCurvePreferences {
		c.Curves = append(c.Curves, tls.CurveID(id))
	}
	if (s.TLSCertFile == "") != (s.TLSPrivateKeyFile == "") {
		return errors.New("tlsCertFile and tlsPrivateKeyFile go together")
	}
	if s.TLSCertFile != "" {
		f := &certificateFile{cert: s.TLSCertFile, key: s.TLSPrivateKeyFile}
		if _, err := f.get(nil); err != nil {
			return fmt.Errorf("tlsCertFile: %w", err)
		}
		c.GetCertificate = f.get
	}
	if file := s.Authentication.X509.ClientCAFile; file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("authentication.x509.clientCAFile: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(b) {
			return fmt.Errorf("authentication.x509.clientCAFile: %s holds no certificate", file)
		}
		c.ClientCAs = func() *x509.CertPool { return pool }
	}
	return nil
}

// Listen is where the API listens.
func (s *Settings) Listen() string { return net.JoinHostPort(s.Address, strconv.Itoa(int(s.Port))) }

// Healthz is where /healthz is answered without encryption, "" for nowhere.
func (s *Settings) Healthz() string {
	if *s.HealthzPort == 0 {
		return ""
	}
	return net.JoinHostPort(s.HealthzBindAddress, strconv.Itoa(int(*s.HealthzPort)))
}

func tlsVersion(name string) (uint16, error) {
	switch name {
	case "":
		return 0, nil
	case "VersionTLS12":
		return tls.VersionTLS12, nil
	case "VersionTLS13":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("tlsMinVersion: %q is neither VersionTLS12 nor VersionTLS13", name)
}

func cipherSuites(names []string) ([]uint16, error) {
	var out []uint16
	for _, n := range names {
		i := slices.IndexFunc(tls.CipherSuites(), func(c *tls.CipherSuite) bool { return c.Name == n })
		if i < 0 {
			return nil, fmt.Errorf("tlsCipherSuites: %q is unknown or not secure", n)
		}
		out = append(out, tls.CipherSuites()[i].ID)
	}
	return out, nil
}

// certificateFile reads a certificate and its key anew when the file changed.
// It is safe for concurrent use.
type certificateFile struct {
	cert, key string

	mu     sync.Mutex
	loaded *tls.Certificate
	of     time.Time
}

func (f *certificateFile) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fi, err := os.Stat(f.cert)
	if err == nil && (f.loaded == nil || !fi.ModTime().Equal(f.of)) {
		var c tls.Certificate
		if c, err = tls.LoadX509KeyPair(f.cert, f.key); err == nil {
			f.loaded, f.of = &c, fi.ModTime()
		}
	}
	if f.loaded == nil {
		return nil, err
	}
	return f.loaded, nil // the last good one while it is being replaced
}
