package oidc

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// Parse reads an AuthenticationConfiguration (apiserver.config.k8s.io/v1 or
// v1beta1, which have the same fields); unknown fields are errors. It is not
// checked yet.
func Parse(data []byte) (*configv1.AuthenticationConfiguration, error) {
	var c configv1.AuthenticationConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, err
	}
	if c.Kind != "AuthenticationConfiguration" || c.APIVersion != "apiserver.config.k8s.io/v1" && c.APIVersion != "apiserver.config.k8s.io/v1beta1" {
		return nil, fmt.Errorf("is %s %s, want apiserver.config.k8s.io/v1 AuthenticationConfiguration", c.APIVersion, c.Kind)
	}
	return &c, nil
}

// maxIssuers is how many JWT authenticators there may be.
const maxIssuers = 64

// check finds what is wrong with a configuration, but for its expressions.
// taken are issuers that no one else may be.
func check(c *configv1.AuthenticationConfiguration, taken []string) field.ErrorList {
	var errs field.ErrorList
	root := field.NewPath("jwt")
	if len(c.JWT) > maxIssuers {
		errs = append(errs, field.TooMany(root, len(c.JWT), maxIssuers))
	}
	urls, discoveries := map[string]bool{}, map[string]bool{}
	for i := range c.JWT {
		j, p := &c.JWT[i], root.Index(i)
		if urls[j.Issuer.URL] {
			errs = append(errs, field.Duplicate(p.Child("issuer", "url"), j.Issuer.URL))
		}
		urls[j.Issuer.URL] = true
		if d := j.Issuer.DiscoveryURL; d != nil && *d != "" {
			if discoveries[*d] {
				errs = append(errs, field.Duplicate(p.Child("issuer", "discoveryURL"), *d))
			}
			discoveries[*d] = true
		}
		errs = append(errs, checkIssuer(&j.Issuer, taken, p.Child("issuer"))...)
		errs = append(errs, checkRules(j, p)...)
		errs = append(errs, checkMappings(&j.ClaimMappings, p.Child("claimMappings"))...)
	}
	if a := c.Anonymous; a != nil {
		p := field.NewPath("anonymous", "conditions")
		if !a.Enabled && len(a.Conditions) > 0 {
			errs = append(errs, field.Invalid(p, a.Conditions, "enabled should be set to true when conditions are defined"))
		}
		for i, cond := range a.Conditions {
			if cond.Path == "" {
				errs = append(errs, field.Required(p.Index(i).Child("path"), ""))
			}
		}
	}
	return errs
}

func checkIssuer(is *configv1.Issuer, taken []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if is.URL == "" {
		errs = append(errs, field.Required(p.Child("url"), "URL is required"))
	} else {
		if slices.Contains(taken, is.URL) {
			errs = append(errs, field.Invalid(p.Child("url"), is.URL, fmt.Sprintf("URL must not overlap with disallowed issuers: %q", taken)))
		}
		errs = append(errs, checkURL(is.URL, p.Child("url"))...)
	}
	if d := is.DiscoveryURL; d != nil && *d != "" {
		if strings.TrimRight(*d, "/") == strings.TrimRight(is.URL, "/") {
			errs = append(errs, field.Invalid(p.Child("discoveryURL"), *d, "discoveryURL must be different from URL"))
		}
		errs = append(errs, checkURL(*d, p.Child("discoveryURL"))...)
	}
	if len(is.Audiences) == 0 {
		errs = append(errs, field.Required(p.Child("audiences"), fmt.Sprintf("at least one %s is required", p.Child("audiences"))))
	}
	seen := map[string]bool{}
	for i, a := range is.Audiences {
		switch {
		case a == "":
			errs = append(errs, field.Required(p.Child("audiences").Index(i), "audience can't be empty"))
		case seen[a]:
			errs = append(errs, field.Duplicate(p.Child("audiences").Index(i), a))
		}
		seen[a] = true
	}
	switch m := is.AudienceMatchPolicy; {
	case len(is.Audiences) > 1 && m != configv1.AudienceMatchPolicyMatchAny:
		errs = append(errs, field.Invalid(p.Child("audienceMatchPolicy"), m, "audienceMatchPolicy must be MatchAny for multiple audiences"))
	case m != "" && m != configv1.AudienceMatchPolicyMatchAny:
		errs = append(errs, field.Invalid(p.Child("audienceMatchPolicy"), m, "audienceMatchPolicy must be empty or MatchAny for single audience"))
	}
	if ca := is.CertificateAuthority; ca != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(ca)) {
		errs = append(errs, field.Invalid(p.Child("certificateAuthority"), "<omitted>", "data does not contain any valid RSA or ECDSA certificates"))
	}
	if is.EgressSelectorType != "" {
		errs = append(errs, field.Invalid(p.Child("egressSelectorType"), is.EgressSelectorType, "there is no egress selector here: leave it empty"))
	}
	return errs
}

func checkURL(text string, p *field.Path) field.ErrorList {
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Invalid(p, text, err.Error())}
	}
	var errs field.ErrorList
	bad := func(why string) { errs = append(errs, field.Invalid(p, text, why)) }
	if u.Scheme != "https" {
		bad("URL scheme must be https")
	}
	if u.User != nil {
		errs = append(errs, field.Invalid(p, u.Redacted(), "URL must not contain a username or password"))
	}
	if u.RawQuery != "" {
		bad("URL must not contain a query")
	}
	if u.Fragment != "" {
		bad("URL must not contain a fragment")
	}
	return errs
}

func checkRules(j *configv1.JWTAuthenticator, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	claims, expressions := map[string]bool{}, map[string]bool{}
	for i, r := range j.ClaimValidationRules {
		p := p.Child("claimValidationRules").Index(i)
		switch {
		case r.Claim == "" && r.Expression == "":
			errs = append(errs, field.Required(p, "claim or expression is required"))
		case r.Claim != "" && r.Expression != "":
			errs = append(errs, field.Invalid(p, r.Claim, "claim and expression can't both be set"))
		case r.Claim != "":
			if r.Message != "" {
				errs = append(errs, field.Invalid(p.Child("message"), r.Message, "message can't be set when claim is set"))
			}
			if claims[r.Claim] {
				errs = append(errs, field.Duplicate(p.Child("claim"), r.Claim))
			}
			claims[r.Claim] = true
		default:
			if r.RequiredValue != "" {
				errs = append(errs, field.Invalid(p.Child("requiredValue"), r.RequiredValue, "requiredValue can't be set when expression is set"))
			}
			if expressions[r.Expression] {
				errs = append(errs, field.Duplicate(p.Child("expression"), r.Expression))
			}
			expressions[r.Expression] = true
		}
	}
	users := map[string]bool{}
	for i, r := range j.UserValidationRules {
		p := p.Child("userValidationRules").Index(i).Child("expression")
		if r.Expression == "" {
			errs = append(errs, field.Required(p, "expression is required"))
		} else if users[r.Expression] {
			errs = append(errs, field.Duplicate(p, r.Expression))
		}
		users[r.Expression] = true
	}
	return errs
}

func checkMappings(m *configv1.ClaimMappings, p *field.Path) field.ErrorList {
	errs := checkPrefixed(&m.Username, p.Child("username"), true)
	errs = append(errs, checkPrefixed(&m.Groups, p.Child("groups"), false)...)
	if m.UID.Claim != "" && m.UID.Expression != "" {
		errs = append(errs, field.Invalid(p.Child("uid"), "", "claim and expression can't both be set"))
	}
	seen := map[string]bool{}
	for i, e := range m.Extra {
		p := p.Child("extra").Index(i)
		errs = append(errs, checkExtraKey(e.Key, p.Child("key"))...)
		if seen[e.Key] {
			errs = append(errs, field.Duplicate(p.Child("key"), e.Key))
		}
		seen[e.Key] = true
		if e.ValueExpression == "" {
			errs = append(errs, field.Required(p.Child("valueExpression"), "valueExpression is required"))
		}
	}
	return errs
}

func checkPrefixed(m *configv1.PrefixedClaimOrExpression, p *field.Path, required bool) field.ErrorList {
	switch {
	case m.Claim != "" && m.Expression != "":
		return field.ErrorList{field.Invalid(p, "", "claim and expression can't both be set")}
	case m.Claim == "" && m.Expression == "" && required:
		return field.ErrorList{field.Required(p, "claim or expression is required")}
	case m.Expression != "" && m.Prefix != nil:
		return field.ErrorList{field.Invalid(p.Child("prefix"), *m.Prefix, "prefix can't be set when expression is set")}
	case m.Claim != "" && m.Prefix == nil:
		return field.ErrorList{field.Required(p.Child("prefix"), "prefix is required when claim is set. It can be set to an empty string to disable prefixing")}
	case m.Claim == "" && m.Expression == "" && m.Prefix != nil:
		return field.ErrorList{field.Invalid(p.Child("prefix"), *m.Prefix, "non-empty prefix is set without claim")}
	}
	return nil
}

var pathCharacters = regexp.MustCompile(`^[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$`)

// checkExtraKey: a domain, a slash and a path, in lower case, and not of
// Kubernetes' own domains.
func checkExtraKey(key string, p *field.Path) field.ErrorList {
	if key == "" {
		return field.ErrorList{field.Required(p, "key is required")}
	}
	domain, path, ok := strings.Cut(key, "/")
	if !ok || domain == "" || path == "" {
		return field.ErrorList{field.Invalid(p, key, "must be a domain-prefixed path (such as \"acme.io/foo\")")}
	}
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Subdomain(domain) {
		errs = append(errs, field.Invalid(p, key, msg))
	}
	if !pathCharacters.MatchString(path) {
		errs = append(errs, field.Invalid(p, key, "the part after the slash holds characters that a URL's path cannot"))
	}
	if key != strings.ToLower(key) {
		errs = append(errs, field.Invalid(p, key, "must be lowercase"))
	}
	for _, own := range []string{"kubernetes.io", "k8s.io"} {
		if domain == own || strings.HasSuffix(domain, "."+own) {
			errs = append(errs, field.Invalid(p, key, own+" domain prefixes are reserved for Kubernetes use"))
		}
	}
	return errs
}

// Flags are the --oidc-* flags: one issuer without expressions.
type Flags struct {
	IssuerURL, ClientID           string
	CAPEM                         string // contents of --oidc-ca-file
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	RequiredClaims                map[string]string
}

// Configuration is what the flags mean as a configuration ("Configuring the
// API Server" of OpenID Connect tokens in the documentation).
func (f *Flags) Configuration() (*configv1.AuthenticationConfiguration, error) {
	if f.IssuerURL == "" || f.ClientID == "" {
		return nil, errors.New("--oidc-issuer-url and --oidc-client-id must be specified together")
	}
	claim := f.UsernameClaim
	if claim == "" {
		claim = "sub"
	}
	prefix := f.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && claim != "email":
		prefix = f.IssuerURL + "#"
	}
	j := configv1.JWTAuthenticator{
		Issuer:        configv1.Issuer{URL: f.IssuerURL, Audiences: []string{f.ClientID}, CertificateAuthority: f.CAPEM},
		ClaimMappings: configv1.ClaimMappings{Username: configv1.PrefixedClaimOrExpression{Claim: claim, Prefix: &prefix}},
	}
	if f.GroupsClaim != "" {
		j.ClaimMappings.Groups = configv1.PrefixedClaimOrExpression{Claim: f.GroupsClaim, Prefix: &f.GroupsPrefix}
	}
	for name, value := range f.RequiredClaims {
		j.ClaimValidationRules = append(j.ClaimValidationRules, configv1.ClaimValidationRule{Claim: name, RequiredValue: value})
	}
	return &configv1.AuthenticationConfiguration{JWT: []configv1.JWTAuthenticator{j}}, nil
}
