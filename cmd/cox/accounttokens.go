package main

import (
	"crypto"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/util/keyutil"

	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/apiserver/tokens"
)

// accountFlags is what the API server is told about the tokens of service
// accounts. The flags have upstream's names.
type accountFlags struct {
	Issuers    []string
	Audiences  []string
	SigningKey string
	Keys       []string
	JWKS       string
	Longest    time.Duration
	Extend     bool
}

func (a *accountFlags) flags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&a.Issuers, "service-account-issuer", nil, "URL that tokens of service accounts name as their issuer; of further ones the tokens are accepted (default: https://kubernetes.default.svc.CLUSTER-DOMAIN)")
	fs.StringSliceVar(&a.Audiences, "api-audiences", nil, "audiences that a token for the API can have (default: the issuers)")
	fs.StringVar(&a.SigningKey, "service-account-signing-key-file", "", "private key that signs them (default: one of the cluster's own)")
	fs.StringSliceVar(&a.Keys, "service-account-key-file", nil, "further keys, public or private, whose tokens are accepted")
	fs.StringVar(&a.JWKS, "service-account-jwks-uri", "", "where the discovery document says that the public keys are (default: this server)")
	fs.DurationVar(&a.Longest, "service-account-max-token-expiration", 0, "the longest life that a token can be asked for (0: no bound)")
	fs.BoolVar(&a.Extend, "service-account-extend-token-expiration", true, "let the tokens that pods get by default live a year, with a warning after an hour")
}

// accountTokens makes and knows the tokens of service accounts.
type accountTokens struct {
	issuers   []*satoken.Issuer // the first one signs
	audiences []string
}

// open reads the keys. own is the cluster's key, base its issuer,
// for what the flags leave open.
func (a *accountFlags) open(own crypto.Signer, base string) (*accountTokens, error) {
	signer := own
	if a.SigningKey != "" {
		key, err := keyutil.PrivateKeyFromFile(a.SigningKey)
		if err != nil {
			return nil, fmt.Errorf("--service-account-signing-key-file: %w", err)
		}
		var ok bool
		if signer, ok = key.(crypto.Signer); !ok {
			return nil, fmt.Errorf("--service-account-signing-key-file: a %T cannot sign", key)
		}
	}
	var accepted []crypto.PublicKey
	for _, path := range a.Keys {
		keys, err := keyutil.PublicKeysFromFile(path)
		if err != nil {
			return nil, fmt.Errorf("--service-account-key-file: %w", err)
		}
		for _, k := range keys {
			accepted = append(accepted, k)
		}
	}
	names := a.Issuers
	if len(names) == 0 {
		names = []string{base}
	}
	t := &accountTokens{audiences: a.Audiences}
	for _, name := range names {
		if u, err := url.Parse(name); err != nil || name == "" || u.Scheme != "" && u.Scheme != "https" {
			return nil, fmt.Errorf("--service-account-issuer %q is not an https URL", name)
		}
		issuer, err := satoken.NewIssuer(name, signer, accepted...)
		if err != nil {
			return nil, fmt.Errorf("service account tokens: %w", err)
		}
		t.issuers = append(t.issuers, issuer)
	}
	if len(t.audiences) == 0 {
		t.audiences = names
	}
	if a.Longest != 0 && (a.Longest < time.Hour || a.Longest > 1<<32*time.Second) {
		return nil, errors.New("--service-account-max-token-expiration must be between 1 hour and 2^32 seconds")
	}
	return t, nil
}

// authenticators know the tokens of every issuer.
func (cp *controlPlane) authenticators(t *accountTokens) []authn.TokenAuthenticator {
	var out []authn.TokenAuthenticator
	counts := authn.NewAccountCounts()
	cp.followed = append(cp.followed, counts)
	for _, i := range t.issuers {
		out = append(out, authn.NewServiceAccounts(i, t.audiences, cp.root, time.Now).Counted(counts))
	}
	return out
}

// urls are the issuers' names, which no other issuer may have.
func (t *accountTokens) urls() []string {
	var out []string
	for _, i := range t.issuers {
		out = append(out, i.URL())
	}
	return out
}

// tokenActions is what the API's questions about tokens need.
func (cp *controlPlane) tokenActions(t *accountTokens, judge authn.TokenAuthenticator) tokens.Config {
	a := &cp.cfg.auth.accounts
	return tokens.Config{
		Issuer: t.issuers[0], Audiences: t.audiences, MaxLifetime: a.Longest, NoExtension: !a.Extend,
		Door: cp.root, Tokens: judge, Now: time.Now,
	}
}

// mint makes the token of a secret of a service account.
func (cp *controlPlane) mint(namespace, secret, account, uid string) (string, error) {
	return cp.tokens.issuers[0].SignLegacy(satoken.Legacy{Namespace: namespace, Secret: secret, Account: account, UID: uid})
}
