package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authn/oidc"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/chain"
	"github.com/coxswain/cox/apiserver/callout"
	"github.com/coxswain/cox/apiserver/encryption"
)

// authConfig is what the API server is told about who may do what, and how
// that is kept and recorded. The flags have upstream's names.
type authConfig struct {
	TokenAuthFile string
	accounts      accountFlags

	AuthnConfig    string
	Anonymous      anonymousFlag
	OIDC           oidc.Flags
	OIDCCAFile     string
	OIDCAlgorithms []string

	TokenWebhook        string
	TokenWebhookVersion string
	TokenWebhookTTL     time.Duration

	AuthzModes    []string
	AuthzConfig   string
	AuthzWebhook  string
	AuthzVersion  string
	AuthorizedTTL time.Duration
	RefusedTTL    time.Duration

	EncryptionConfig string
	EncryptionReload bool
}

func (a *authConfig) flags(fs *pflag.FlagSet) {
	a.accounts.flags(fs)
	fs.StringVar(&a.TokenAuthFile, "token-auth-file", "", "static bearer tokens (CSV: token,user,uid,\"group,...\")")

	fs.StringVar(&a.AuthnConfig, "authentication-config", "", "issuers of OpenID Connect tokens and anonymous access (apiserver.config.k8s.io/v1 AuthenticationConfiguration); changes are taken over")
	fs.Var(&a.Anonymous, "anonymous-auth", "whether requests without credentials are let in as system:anonymous; unset, only to health and version")
	fs.Lookup("anonymous-auth").NoOptDefVal = "true"
	fs.StringVar(&a.OIDC.IssuerURL, "oidc-issuer-url", "", "an issuer of OpenID Connect tokens")
	fs.StringVar(&a.OIDC.ClientID, "oidc-client-id", "", "the audience that its tokens must be for")
	fs.StringVar(&a.OIDCCAFile, "oidc-ca-file", "", "CA of the issuer's server (default: the host's)")
	fs.StringVar(&a.OIDC.UsernameClaim, "oidc-username-claim", "sub", "claim that is the user's name")
	fs.StringVar(&a.OIDC.UsernamePrefix, "oidc-username-prefix", "", "what goes before the name (default: the issuer and a #, - for nothing)")
	fs.StringVar(&a.OIDC.GroupsClaim, "oidc-groups-claim", "", "claim that is the user's groups")
	fs.StringVar(&a.OIDC.GroupsPrefix, "oidc-groups-prefix", "", "what goes before each group")
	fs.StringSliceVar(&a.OIDCAlgorithms, "oidc-signing-algs", []string{"RS256"}, "algorithms that may sign a token")
	fs.StringToStringVar(&a.OIDC.RequiredClaims, "oidc-required-claim", nil, "claims that a token must have, with their values")
	fs.StringVar(&a.TokenWebhook, "authentication-token-webhook-config-file", "", "kubeconfig of a server that judges bearer tokens (TokenReview)")
	fs.StringVar(&a.TokenWebhookVersion, "authentication-token-webhook-version", "v1beta1", "version of the TokenReview that it is sent")
	fs.DurationVar(&a.TokenWebhookTTL, "authentication-token-webhook-cache-ttl", 2*time.Minute, "how long its answers are remembered")

	fs.StringSliceVar(&a.AuthzModes, "authorization-mode", nil, "authorizers in the order in which they are asked: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny (default [Node,RBAC])")
	fs.StringVar(&a.AuthzConfig, "authorization-config", "", "the same as a file (apiserver.config.k8s.io/v1 AuthorizationConfiguration), with several webhooks; changes are taken over")
	fs.StringVar(&a.AuthzWebhook, "authorization-webhook-config-file", "", "kubeconfig of the server that the mode Webhook asks (SubjectAccessReview)")
	fs.StringVar(&a.AuthzVersion, "authorization-webhook-version", "v1beta1", "version of the SubjectAccessReview that it is sent")
	fs.DurationVar(&a.AuthorizedTTL, "authorization-webhook-cache-authorized-ttl", 5*time.Minute, "how long its answers are remembered that allow")
	fs.DurationVar(&a.RefusedTTL, "authorization-webhook-cache-unauthorized-ttl", 30*time.Second, "how long its answers are remembered that do not")

	fs.StringVar(&a.EncryptionConfig, "encryption-provider-config", "", "which objects are encrypted at rest and how (apiserver.config.k8s.io/v1 EncryptionConfiguration)")
	fs.BoolVar(&a.EncryptionReload, "encryption-provider-config-automatic-reload", false, "take over changes of --encryption-provider-config while running")
}

// anonymousFlag is a boolean that can be unset.
type anonymousFlag struct{ text string }

// String implements pflag.Value.
func (f *anonymousFlag) String() string { return f.text }

// Type implements pflag.Value.
func (f *anonymousFlag) Type() string { return "bool" }

// Set implements pflag.Value.
func (f *anonymousFlag) Set(s string) error {
	if s != "true" && s != "false" {
		return errors.New("want true or false")
	}
	f.text = s
	return nil
}

// users is who the API server knows beside those with client certificates.
type users struct {
	tokens    authn.TokenAuthenticator
	anonymous authn.Authenticator
	// run follows the configuration.
	run func(ctx context.Context) error
}

// openUsers puts the authenticators of bearer tokens together.
func (cp *controlPlane) openUsers(t *accountTokens) (*users, error) {
	a, audiences := &cp.cfg.auth, t.audiences
	all := append(cp.authenticators(t), authn.NewBootstrap(cp.root, audiences, time.Now))
	if a.TokenAuthFile != "" {
		static, err := authn.LoadStatic(a.TokenAuthFile, audiences)
		if err != nil {
			return nil, fmt.Errorf("--token-auth-file: %w", err)
		}
		all = append(all, static)
	}
	configured, err := cp.openOIDC(t)
	if err != nil {
		return nil, err
	}
	all = append(all, configured)
	if a.TokenWebhook != "" { // last: what someone else knows is not shown to it
		target, err := callout.Open(a.TokenWebhook)
		if err != nil {
			return nil, fmt.Errorf("--authentication-token-webhook-config-file: %w", err)
		}
		hook, err := authn.NewWebhook(authn.WebhookConfig{
			Target: target, Version: a.TokenWebhookVersion, TTL: a.TokenWebhookTTL, Audiences: audiences, Now: time.Now, Retry: callout.Default,
		})
		if err != nil {
			return nil, fmt.Errorf("--authentication-token-webhook-version: %w", err)
		}
		all = append(all, hook)
	}
	return &users{tokens: authn.TokenUnion(all...), anonymous: configured.Anonymous(), run: configured.Run}, nil
}

// openOIDC reads what the file or the flags say of issuers and of anonymous
// users.
func (cp *controlPlane) openOIDC(t *accountTokens) (*oidc.Authenticator, error) {
	a := &cp.cfg.auth
	cfg := oidc.Config{
		Path: a.AuthnConfig, Fixed: &configv1.AuthenticationConfiguration{}, Audiences: t.audiences, Taken: t.urls(),
		Anonymous: authn.AnonymousAt(authn.HealthPaths()...), Now: time.Now, Log: cp.log.With("component", "oidc"),
		Reloads: cp.reloads("authentication"),
	}
	switch a.Anonymous.text {
	case "true":
		cfg.Anonymous = authn.AnonymousEverywhere()
	case "false":
		cfg.Anonymous = nil
	}
	if a.OIDC.IssuerURL != "" || a.OIDC.ClientID != "" {
		if a.AuthnConfig != "" {
			return nil, errors.New("--authentication-config and the --oidc-* flags exclude each other")
		}
		if a.OIDCCAFile != "" {
			pem, err := os.ReadFile(a.OIDCCAFile)
			if err != nil {
				return nil, fmt.Errorf("--oidc-ca-file: %w", err)
			}
			a.OIDC.CAPEM = string(pem)
		}
		fixed, err := a.OIDC.Configuration()
		if err != nil {
			return nil, err
		}
		cfg.Fixed, cfg.Algorithms = fixed, a.OIDCAlgorithms
	}
	out, err := oidc.Open(cfg)
	switch {
	case err != nil && a.AuthnConfig != "":
		return nil, fmt.Errorf("--authentication-config: %w", err)
	case err != nil:
		return nil, fmt.Errorf("--oidc flags: %w", err)
	case a.Anonymous.text != "" && out.ConfiguresAnonymous():
		return nil, errors.New("--anonymous-auth and the anonymous section of --authentication-config exclude each other")
	}
	return out, nil
}

// openAuthorizer puts the authorizers together, in the order that the file or
// the flags say.
func (cp *controlPlane) openAuthorizer(fs *authConfig) (*chain.Chain, error) {
	cfg := chain.Config{
		Path: fs.AuthzConfig, Types: map[string]authz.Authorizer{"Node": cp.nodes, "RBAC": cp.rbac},
		Now: time.Now, Log: cp.log.With("component", "authorization"), Reloads: cp.reloads("authorization"),
	}
	flag := "--authorization-config"
	if fs.AuthzConfig != "" && (len(fs.AuthzModes) > 0 || fs.AuthzWebhook != "") {
		return nil, errors.New("--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined")
	}
	if fs.AuthzConfig == "" {
		flag, cfg.Fixed = "--authorization-mode", &configv1.AuthorizationConfiguration{}
		modes := fs.AuthzModes
		if len(modes) == 0 {
			modes = []string{"Node", "RBAC"}
		}
		for _, mode := range modes {
			a := configv1.AuthorizerConfiguration{Type: mode, Name: strings.ToLower(mode)}
			if mode == string(configv1.TypeWebhook) {
				a.Webhook = fs.webhook()
			}
			cfg.Fixed.Authorizers = append(cfg.Fixed.Authorizers, a)
		}
	}
	c, err := chain.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return c, nil
}

// webhook is the mode Webhook of the flags.
func (a *authConfig) webhook() *configv1.WebhookConfiguration {
	yes, no := true, false
	w := &configv1.WebhookConfiguration{
		AuthorizedTTL: metav1.Duration{Duration: a.AuthorizedTTL}, CacheAuthorizedRequests: &yes,
		UnauthorizedTTL: metav1.Duration{Duration: a.RefusedTTL}, CacheUnauthorizedRequests: &yes,
		Timeout: metav1.Duration{Duration: 30 * time.Second}, SubjectAccessReviewVersion: a.AuthzVersion,
		MatchConditionSubjectAccessReviewVersion: "v1", FailurePolicy: configv1.FailurePolicyNoOpinion,
		ConnectionInfo: configv1.WebhookConnectionInfo{Type: configv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile},
	}
	if a.AuthorizedTTL <= 0 {
		w.CacheAuthorizedRequests = &no
	}
	if a.RefusedTTL <= 0 {
		w.CacheUnauthorizedRequests = &no
	}
	if a.AuthzWebhook != "" {
		path, err := filepath.Abs(a.AuthzWebhook)
		if err != nil {
			path = a.AuthzWebhook
		}
		w.ConnectionInfo.KubeConfigFile = &path
	}
	return w
}

// openEncryption reads how objects are encrypted at rest; nil when they are
// not.
func (cp *controlPlane) openEncryption(ctx context.Context) (*encryption.Encryption, error) {
	a := &cp.cfg.auth
	if a.EncryptionConfig == "" {
		return nil, nil
	}
	return encryption.Open(ctx, encryption.Config{
		Path: a.EncryptionConfig, Reload: a.EncryptionReload, Now: time.Now, Log: cp.log.With("component", "encryption"),
		Reloads: cp.reloads("encryption"),
	})
}
