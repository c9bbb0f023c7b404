package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/node"
	"github.com/coxswain/cox/apiserver/authz/rbac"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
)

// plane is a control plane with flags and without a server.
func plane(t *testing.T, args ...string) *controlPlane {
	t.Helper()
	c := &config{DataDir: t.TempDir()}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	fs.StringVar(&c.AuditPolicyFile, "audit-policy-file", "", "")
	fs.StringVar(&c.AuditLogPath, "audit-log-path", "", "")
	c.auth.flags(fs)
	c.audit.flags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	cp := &controlPlane{cfg: c, log: slog.New(slog.DiscardHandler), root: client.As(&lateDoor{}, masters), rbac: rbac.New()}
	cp.nodes = node.New(cp.root, nil)
	t.Cleanup(func() {
		for _, f := range cp.closers {
			f()
		}
	})
	return cp
}

// open makes all that the flags say.
func (cp *controlPlane) openAll(t *testing.T) error {
	t.Helper()
	bundle, err := pki.Ensure(t.TempDir(), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := cp.cfg.auth.accounts.open(bundle.ServiceAccountKey, "https://own")
	if err != nil {
		return err
	}
	if _, err := cp.openUsers(accounts); err != nil {
		return err
	}
	if _, err := cp.openAuthorizer(&cp.cfg.auth); err != nil {
		return err
	}
	if _, err := cp.openEncryption(t.Context()); err != nil {
		return err
	}
	_, err = cp.openAudit()
	return err
}

func TestAuthFlags(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kubeconfig := file("kubeconfig", "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n")
	policy := file("policy", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
	anonymous := file("authn", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: []\nanonymous: {enabled: false}\n")
	order := file("authz", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: RBAC, name: r}, {type: Node, name: n}]\n")
	own := file("own", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{issuer: {url: 'https://own', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n")
	oidc := []string{"--oidc-issuer-url=https://a", "--oidc-client-id=me"}
	for name, tc := range map[string]struct {
		args []string
		why  string // "" is good
	}{
		"nothing":                 {nil, ""},
		"all by flags":            {append(oidc, "--authentication-token-webhook-config-file="+kubeconfig, "--authorization-mode=Node,RBAC,Webhook", "--authorization-webhook-config-file="+kubeconfig, "--audit-policy-file="+policy, "--audit-webhook-config-file="+kubeconfig, "--anonymous-auth=false"), ""},
		"all by files":            {[]string{"--authentication-config=" + anonymous, "--authorization-config=" + order, "--audit-policy-file=" + policy, "--audit-log-mode=batch", "--audit-log-truncate-enabled"}, ""},
		"file and flags of OIDC":  {append(oidc, "--authentication-config="+anonymous), "exclude each other"},
		"anonymous twice":         {[]string{"--anonymous-auth", "--authentication-config=" + anonymous}, "exclude each other"},
		"our own issuer":          {[]string{"--authentication-config=" + own}, "disallowed issuers"},
		"half of OIDC":            {oidc[:1], "--oidc-client-id"},
		"secret algorithm":        {append(oidc, "--oidc-signing-algs=HS256"), "HS256"},
		"file and flags of modes": {[]string{"--authorization-mode=RBAC", "--authorization-config=" + order}, "can not be specified when"},
		"webhook without a file":  {[]string{"--authorization-mode=Webhook"}, "kubeConfigFile"},
		"unknown mode":            {[]string{"--authorization-mode=Foo"}, "--authorization-mode"},
		"mode twice":              {[]string{"--authorization-mode=RBAC,RBAC"}, "Duplicate"},
		"version of token review": {[]string{"--authentication-token-webhook-config-file=" + kubeconfig, "--authentication-token-webhook-version=v2"}, "v2"},
		"no such kubeconfig":      {[]string{"--authentication-token-webhook-config-file=/no/such"}, "--authentication-token-webhook-config-file"},
		"no such encryption":      {[]string{"--encryption-provider-config=/no/such"}, "/no/such"},
		"audit without a policy":  {[]string{"--audit-webhook-config-file=" + kubeconfig}, "--audit-policy-file"},
		"audit mode":              {[]string{"--audit-policy-file=" + policy, "--audit-log-mode=never"}, "--audit-log-mode"},
		"audit format":            {[]string{"--audit-policy-file=" + policy, "--audit-log-format=legacy"}, "--audit-log-format"},
		"no such tokens":          {[]string{"--token-auth-file=/no/such"}, "--token-auth-file"},
	} {
		err := plane(t, tc.args...).openAll(t)
		if (err == nil) != (tc.why == "") || err != nil && !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: got %v, want %q", name, err, tc.why)
		}
	}
	if err := new(anonymousFlag).Set("maybe"); err == nil {
		t.Error("--anonymous-auth=maybe is taken")
	}
	all, err := plane(t, "--authorization-mode=AlwaysAllow").openAuthorizer(&authConfig{AuthzModes: []string{"AlwaysAllow"}})
	if err != nil {
		t.Fatal(err)
	}
	if d, _, _ := all.Authorize(t.Context(), &authz.Attributes{Verb: "get", Path: "/"}); d != authz.Allow {
		t.Errorf("AlwaysAllow: %v", d)
	}
}

// The first issuer signs; tokens of the others, and of further keys, are still
// good after a rotation.
func TestAccountTokens(t *testing.T) {
	dir := t.TempDir()
	keys := make([]crypto.Signer, 2)
	for i := range keys {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		keys[i] = k
	}
	before, err := (&accountFlags{}).open(keys[0], "https://old")
	if err != nil || len(before.audiences) != 1 || before.audiences[0] != "https://old" {
		t.Fatalf("%+v, %v", before, err)
	}
	f := &accountFlags{Issuers: []string{"https://new", "https://old"}, SigningKey: filepath.Join(dir, "1"), Keys: []string{filepath.Join(dir, "0")}}
	after, err := f.open(keys[0], "https://old")
	if err != nil || after.issuers[0].URL() != "https://new" || len(after.audiences) != 2 {
		t.Fatalf("%+v, %v", after, err)
	}
	claims := satoken.Claims{Kubernetes: satoken.Private{Namespace: "ns", ServiceAccount: satoken.Ref{Name: "a", UID: "u"}}}
	old, err := before.issuers[0].Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.issuers[1].Verify(old); err != nil {
		t.Errorf("the old token: %v", err)
	}
	young, err := after.issuers[0].Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.issuers[0].Verify(young); err == nil {
		t.Error("the new key was known before")
	}
	for _, bad := range []accountFlags{
		{Issuers: []string{"http://plain"}}, {SigningKey: "/no/such"}, {Keys: []string{"/no/such"}}, {Longest: time.Minute},
	} {
		if _, err := bad.open(keys[0], "https://old"); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
