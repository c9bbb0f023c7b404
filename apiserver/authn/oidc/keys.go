package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// How long an issuer's keys are taken for its present ones, how long they are
// used when it cannot be reached after that, and how soon it is asked again.
// Keys that it withdraws end that way; strangers who send tokens of made-up
// keys cannot make us ask all the time.
const (
	keysFresh   = 10 * time.Minute
	keysUsable  = 24 * time.Hour
	keysAgain   = time.Second
	failedAgain = 10 * time.Second
)

// maxDocument bounds what an issuer may answer, in bytes.
const maxDocument = 1 << 20

// keySet is the public keys of an issuer, found through its discovery
// document (OpenID Connect Discovery 1.0) when the first token asks for them.
type keySet struct {
	issuer, discovery string
	client            *http.Client
	now               func() time.Time

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time // of keys
	tried   time.Time
	failure error         // of the last try
	running chan struct{} // closed when the try under way is over
}

func newKeySet(issuer, discovery, ca string, now func() time.Time) *keySet {
	if discovery == "" {
		discovery = wellKnown(issuer)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM([]byte(ca)) // checked before
	}
	return &keySet{issuer: issuer, discovery: discovery, now: now, client: &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: cfg, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 30 * time.Second},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || len(via) >= 5 {
				return errors.New("redirected too often or away from https")
			}
			return nil
		},
	}}
}

func wellKnown(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// other is the keys of another issuer, asked for in the same way.
func (k *keySet) other(issuer string) *keySet {
	return &keySet{issuer: issuer, discovery: wellKnown(issuer), client: k.client, now: k.now}
}

// find returns the keys that may have made a signature: those of the id, or
// all when it is empty. An id that is not known makes the issuer be asked.
func (k *keySet) find(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	for {
		k.mu.Lock()
		now := k.now()
		found, age := k.named(id), now.Sub(k.fetched)
		again := keysAgain
		if k.failure != nil {
			again = failedAgain
		}
		switch {
		case len(found) > 0 && age < keysFresh:
			k.mu.Unlock()
			return found, nil
		case k.running == nil && now.Sub(k.tried) < again:
			err := k.failure
			k.mu.Unlock()
			switch {
			case len(found) > 0 && age < keysUsable:
				return found, nil
			case err != nil:
				return nil, err
			}
			return nil, errors.New("the token is signed with a key that its issuer does not publish")
		case k.running == nil:
			k.running = make(chan struct{})
			// One who gives up must not make the others ask anew.
			go k.fetch(context.WithoutCancel(ctx))
		}
		running := k.running
		k.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (k *keySet) named(id string) []jose.JSONWebKey {
	if id == "" {
		return k.keys
	}
	var out []jose.JSONWebKey
	for _, key := range k.keys {
		if key.KeyID == id {
			out = append(out, key)
		}
	}
	return out
}

func (k *keySet) fetch(ctx context.Context) {
	keys, err := k.ask(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried, k.failure = k.now(), err
	if err == nil {
		k.keys, k.fetched = keys, k.tried
	}
	close(k.running)
	k.running = nil
}

func (k *keySet) ask(ctx context.Context) ([]jose.JSONWebKey, error) {
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := k.get(ctx, k.discovery, &doc); err != nil {
		return nil, fmt.Errorf("discover issuer %s: %w", k.issuer, err)
	}
	if doc.Issuer != k.issuer {
		return nil, fmt.Errorf("discover issuer %s: the document is that of issuer %q", k.issuer, doc.Issuer)
	}
	u, err := url.Parse(doc.JWKS)
	if err != nil || u.Scheme != "https" {
		return nil, fmt.Errorf("discover issuer %s: its jwks_uri %q is not an https URL", k.issuer, doc.JWKS)
	}
	var set jose.JSONWebKeySet
	if err := k.get(ctx, doc.JWKS, &set); err != nil {
		return nil, fmt.Errorf("read the keys of issuer %s: %w", k.issuer, err)
	}
	var keys []jose.JSONWebKey
	for _, key := range set.Keys {
		// A symmetric or private key has no business there; one for encryption
		// signs nothing.
		if key.Valid() && key.IsPublic() && key.Use != "enc" {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("issuer %s publishes no keys for signatures", k.issuer)
	}
	return keys, nil
}

func (k *keySet) get(ctx context.Context, from string, into any) error {
	data, err := k.text(ctx, from, "")
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s does not answer what it should: %w", from, err)
	}
	return nil
}

// text reads what a URL answers to the bearer of a token ("" for none). The
// error does not name the URL.
func (k *keySet) text(ctx context.Context, from, token string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := k.client.Do(req)
	if err != nil {
		var named *url.Error
		if errors.As(err, &named) {
			err = named.Err
		}
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %s", res.Status)
	case len(data) > maxDocument:
		return nil, fmt.Errorf("it answers more than %d bytes", maxDocument)
	}
	return data, nil
}

func (k *keySet) close() { k.client.CloseIdleConnections() }
