package callout

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	kubeconfig "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// Users are the credentials that a kubeconfig file holds for servers by their
// name, as admission webhooks are given them (see "Authenticate API servers" in
// the documentation of dynamic admission control). They are safe for concurrent
// use; a nil *Users has none for anybody.
type Users struct {
	byName  map[string]*Credential
	current *Credential // of the current context, for those that nothing names; nil: none
}

// Credential is what the server shows of itself to one of those that it asks. A
// nil *Credential is nothing.
type Credential struct {
	token          func() (string, error) // nil: none
	user, password string
	cert           func(*tls.Config)
}

// OpenUsers reads a kubeconfig file. Tokens and certificates that lie in files
// are read anew when those change. Credentials that need a program to be run are
// refused.
func OpenUsers(path string) (*Users, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	var c kubeconfig.Config
	if err := yaml.Unmarshal(data, &c); err != nil {
		// The text of the error can quote a credential.
		return nil, fmt.Errorf("kubeconfig %s is not valid YAML, or has fields of another type", path)
	}
	u := &Users{byName: map[string]*Credential{}}
	for i := range c.AuthInfos {
		cred, err := credential(&c.AuthInfos[i].AuthInfo, filepath.Dir(path))
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: user %q: %w", path, c.AuthInfos[i].Name, err)
		}
		u.byName[c.AuthInfos[i].Name] = cred
	}
	for i := range c.Contexts {
		if c.CurrentContext != "" && c.Contexts[i].Name == c.CurrentContext {
			u.current = u.byName[c.Contexts[i].Context.AuthInfo]
		}
	}
	return u, nil
}

// For is the credential for the server of a name, which has its port where that
// is part of the name: the one of the very name, or of the narrowest pattern, as
// *.example.com or *, or of the current context; nil if there is none. u may be
// nil.
func (u *Users) For(name string) *Credential {
	if u == nil {
		return nil
	}
	if c, ok := u.byName[name]; ok {
		return c
	}
	for rest := name; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			break
		}
		if c, ok := u.byName["*."+after]; ok {
			return c
		}
		rest = after
	}
	if c, ok := u.byName["*"]; ok {
		return c
	}
	return u.current
}

// TLS puts the client's certificate into cfg, if there is one. c may be nil.
func (c *Credential) TLS(cfg *tls.Config) {
	if c != nil && c.cert != nil {
		c.cert(cfg)
	}
}

// Authorize puts the token or password into req, if there is one. c may be nil.
func (c *Credential) Authorize(req *http.Request) error {
	switch {
	case c == nil:
	case c.token != nil:
		token, err := c.token()
		if err != nil {
			return fmt.Errorf("read the token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	case c.user != "":
		req.SetBasicAuth(c.user, c.password)
	}
	return nil
}

// credential reads those of a user; files are looked for in dir.
func credential(user *kubeconfig.AuthInfo, dir string) (*Credential, error) {
	if user.Exec != nil || user.AuthProvider != nil {
		return nil, errors.New("gets its credentials from a program, which is not done here")
	}
	c := &Credential{user: user.Username, password: user.Password}
	switch {
	case user.Token != "":
		c.token = func() (string, error) { return user.Token, nil }
	case user.TokenFile != "":
		f := &followed[string]{path: under(dir, user.TokenFile), parse: func(b []byte) (string, error) { return strings.TrimSpace(string(b)), nil }}
		if _, err := f.get(); err != nil {
			return nil, fmt.Errorf("tokenFile: %w", err)
		}
		c.token = f.get
	}
	switch {
	case len(user.ClientCertificateData) > 0:
		pair, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
		if err != nil {
			return nil, fmt.Errorf("client-certificate-data: %w", err)
		}
		c.cert = func(cfg *tls.Config) { cfg.Certificates = []tls.Certificate{pair} }
	case user.ClientCertificate != "":
		key := under(dir, user.ClientKey)
		f := &followed[*tls.Certificate]{path: under(dir, user.ClientCertificate), parse: func(cert []byte) (*tls.Certificate, error) {
			k, err := os.ReadFile(key)
			if err != nil {
				return nil, err
			}
			pair, err := tls.X509KeyPair(cert, k)
			return &pair, err
		}}
		if _, err := f.get(); err != nil {
			return nil, fmt.Errorf("client-certificate: %w", err)
		}
		c.cert = func(cfg *tls.Config) {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.get() }
		}
	}
	return c, nil
}
