package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"
)

// distributed resolves a claim that a token has elsewhere (OpenID Connect Core
// 1.0, 5.6.2): issuers do so with groups when a user has too many of them. It
// is safe for concurrent use.
type distributed struct {
	claim string
	is    *issuer

	mu   sync.Mutex
	keys map[string]*keySet // by the issuer of what an endpoint answered
}

// maxSigners bounds the other issuers whose keys are kept for one that sends us to
// them.
const maxSigners = 16

// source is where a claim is: an entry of _claim_sources.
type source struct {
	Endpoint string `json:"endpoint"`
	Token    string `json:"access_token"`
}

// where finds the source of the claim; nil if the token has the claim itself,
// or nowhere, or in the token of another (an aggregated claim), which upstream
// does not look into either.
func (d *distributed) where(payload []byte, claims map[string]any) (*source, error) {
	if _, ok := claims[d.claim]; ok || claims["_claim_names"] == nil {
		return nil, nil
	}
	var c struct {
		Names   map[string]string `json:"_claim_names"`
		Sources map[string]source `json:"_claim_sources"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, errors.New("its distributed claims are not of the form they must have")
	}
	name, ok := c.Names[d.claim]
	if !ok {
		return nil, nil
	}
	s, ok := c.Sources[name]
	if !ok {
		return nil, fmt.Errorf("the source of its claim %s is not among its _claim_sources", d.claim)
	}
	if s.Endpoint == "" {
		return nil, nil
	}
	if u, err := url.Parse(s.Endpoint); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the endpoint of its claim %s is not an https URL", d.claim)
	}
	return &s, nil
}

// resolve puts the claim into the claims of a verified token. until is when
// what was found expires; zero without.
func (d *distributed) resolve(ctx context.Context, payload []byte, claims map[string]any, now time.Time) (until time.Time, err error) {
	from, err := d.where(payload, claims)
	if err != nil || from == nil {
		return until, err
	}
	answer, err := d.is.keys.text(ctx, from.Endpoint, from.Token)
	if err != nil {
		return until, fmt.Errorf("ask the endpoint of its claim %s: %w", d.claim, err)
	}
	token := strings.TrimSpace(string(answer))
	// The endpoint is the issuer's choice and so is, by that, who signs there:
	// whoever it is must publish the keys under its own name.
	name, ok := issuerOf(token)
	if !ok {
		return until, fmt.Errorf("the endpoint of its claim %s answers no token", d.claim)
	}
	keys, err := d.keysOf(name)
	if err != nil {
		return until, err
	}
	found, err := d.is.verify(ctx, keys, token)
	if err == nil {
		until, err = d.is.standard(name, found, now)
	}
	if err != nil {
		return until, fmt.Errorf("the token with its claim %s: %w", d.claim, err)
	}
	var more map[string]any
	if err := json.Unmarshal(found, &more); err != nil {
		return until, fmt.Errorf("the token with its claim %s holds no JSON object", d.claim)
	}
	value, ok := more[d.claim]
	if !ok {
		return until, fmt.Errorf("the endpoint of its claim %s answers a token without it", d.claim)
	}
	claims[d.claim] = value
	return until, nil
}

// keysOf are the keys of an issuer, found as those of the configured one.
func (d *distributed) keysOf(name string) (*keySet, error) {
	if name == d.is.keys.issuer {
		return d.is.keys, nil
	}
	if u, err := url.Parse(name); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("the issuer of its claim %s is not an https URL", d.claim)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if k, ok := d.keys[name]; ok {
		return k, nil
	}
	if len(d.keys) >= maxSigners || d.keys == nil {
		d.keys = map[string]*keySet{}
	}
	k := d.is.keys.other(name)
	d.keys[name] = k
	return k, nil
}
