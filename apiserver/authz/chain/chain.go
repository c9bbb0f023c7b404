// Package chain is the order in which authorizers are asked: an
// AuthorizationConfiguration (or the --authorization-* flags) goes in, one
// authorizer comes out, which follows the file.
package chain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/webhook"
	"github.com/coxswain/cox/apiserver/callout"
	"github.com/coxswain/cox/apiserver/reloads"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/filewatch"
)

// Config says where the configuration is and what goes with it.
type Config struct {
	// Path is the file of the AuthorizationConfiguration
	// (apiserver.config.k8s.io/v1 or v1beta1); "" takes Fixed.
	Path  string
	Fixed *configv1.AuthorizationConfiguration
	// Types are the authorizers that a configuration names by their type
	// alone, such as Node and RBAC.
	Types map[string]authz.Authorizer
	Log   *slog.Logger
	Now   func() time.Time
	// Reloads counts what becomes of the file's changes; nil is nothing.
	Reloads *reloads.Metrics
}

// Chain is the configuration in force. It implements authz.Authorizer and
// authz.RuleResolver.
type Chain struct {
	cfg     Config
	current atomic.Pointer[links]
}

type links struct {
	data    []byte
	types   []string // but webhooks, sorted
	all     authz.Authorizer
	targets []*callout.Target
}

// Open reads and checks the configuration.
func Open(cfg Config) (*Chain, error) {
	c := &Chain{cfg: cfg}
	l, err := c.load()
	if err != nil {
		return nil, err
	}
	c.current.Store(l)
	if cfg.Path != "" {
		cfg.Reloads.InForce(sha256.Sum256(l.data))
	}
	return c, nil
}

// Authorize implements authz.Authorizer.
func (c *Chain) Authorize(ctx context.Context, attrs *authz.Attributes) (authz.Decision, string, error) {
	return c.current.Load().all.Authorize(ctx, attrs)
}

// RulesFor implements authz.RuleResolver.
func (c *Chain) RulesFor(ctx context.Context, user client.User, namespace string) ([]authz.ResourceRule, []authz.NonResourceRule, bool, error) {
	return c.current.Load().all.(authz.RuleResolver).RulesFor(ctx, user, namespace)
}

// Run follows the file until ctx ends. What is not valid is not taken over,
// nor is another set of authorizers beside webhooks.
func (c *Chain) Run(ctx context.Context) error {
	if c.cfg.Path == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	return filewatch.Run(ctx, func() {
		old := c.current.Load()
		l, err := c.load()
		if err == nil && !slices.Equal(l.types, old.types) {
			err = fmt.Errorf("authorizers other than webhooks cannot come or go while the server runs: there are %q, not %q", old.types, l.types)
		}
		if err != nil {
			c.cfg.Reloads.Failed()
			c.cfg.Log.Error("the authorization configuration is not taken over; the one before stays in force", "error", err)
			return
		}
		if bytes.Equal(l.data, old.data) {
			return
		}
		c.current.Store(l)
		for _, t := range old.targets {
			t.Close()
		}
		c.cfg.Reloads.Taken(sha256.Sum256(l.data))
		c.cfg.Log.Info("took over the new authorization configuration", "path", c.cfg.Path)
	}, c.cfg.Path)
}

func (c *Chain) load() (*links, error) {
	if c.cfg.Path == "" {
		return c.build(c.cfg.Fixed)
	}
	data, err := os.ReadFile(c.cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("read the authorization configuration: %w", err)
	}
	in, err := parse(data)
	if err == nil {
		var l *links
		if l, err = c.build(in); err == nil {
			l.data = data
			return l, nil
		}
	}
	return nil, fmt.Errorf("authorization configuration %s: %w", c.cfg.Path, err)
}

func parse(data []byte) (*configv1.AuthorizationConfiguration, error) {
	var in configv1.AuthorizationConfiguration
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		return nil, err
	}
	if in.Kind != "AuthorizationConfiguration" || in.APIVersion != "apiserver.config.k8s.io/v1" && in.APIVersion != "apiserver.config.k8s.io/v1beta1" {
		return nil, fmt.Errorf("is %s %s, want apiserver.config.k8s.io/v1 AuthorizationConfiguration", in.APIVersion, in.Kind)
	}
	return &in, nil
}

func (c *Chain) build(in *configv1.AuthorizationConfiguration) (*links, error) {
	root := field.NewPath("authorizers")
	if len(in.Authorizers) == 0 {
		return nil, field.ErrorList{field.Required(root, "at least one authorization mode must be defined")}.ToAggregate()
	}
	var errs field.ErrorList
	l := &links{}
	all := []authz.Authorizer{authz.Masters()}
	names := map[string]bool{}
	for i := range in.Authorizers {
		a, p := &in.Authorizers[i], root.Index(i)
		if names[a.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), a.Name))
		}
		names[a.Name] = true
		if a.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		} else if msgs := validation.IsDNS1123Subdomain(a.Name); len(msgs) > 0 {
			errs = append(errs, field.Invalid(p.Child("name"), a.Name, "authorizer name is invalid: "+msgs[0]))
		}
		link, bad := c.link(a, p, l)
		errs = append(errs, bad...)
		all = append(all, link)
	}
	if len(errs) > 0 {
		for _, t := range l.targets {
			t.Close()
		}
		return nil, errs.ToAggregate()
	}
	slices.Sort(l.types)
	l.all = authz.Union(all...)
	return l, nil
}

func (c *Chain) link(a *configv1.AuthorizerConfiguration, p *field.Path, l *links) (authz.Authorizer, field.ErrorList) {
	if a.Type == string(configv1.TypeWebhook) {
		if a.Webhook == nil {
			return nil, field.ErrorList{field.Required(p.Child("webhook"), "required when type=Webhook")}
		}
		return c.webhook(a, p.Child("webhook"), l)
	}
	if a.Webhook != nil {
		return nil, field.ErrorList{field.Invalid(p.Child("webhook"), "non-null", "may only be specified when type=Webhook")}
	}
	if slices.Contains(l.types, a.Type) {
		return nil, field.ErrorList{field.Duplicate(p.Child("type"), a.Type)}
	}
	l.types = append(l.types, a.Type)
	switch a.Type {
	case "AlwaysAllow":
		return always{authz.Allow, ""}, nil
	case "AlwaysDeny":
		return always{authz.NoOpinion, "Everything is forbidden."}, nil
	}
	if own, ok := c.cfg.Types[a.Type]; ok {
		return own, nil
	}
	known := []string{"AlwaysAllow", "AlwaysDeny", "Webhook"}
	for t := range c.cfg.Types {
		known = append(known, t)
	}
	slices.Sort(known)
	return nil, field.ErrorList{field.NotSupported(p.Child("type"), a.Type, known)}
}

// maxTimeout bounds how long a request waits for a webhook.
const maxTimeout = 30 * time.Second

func (c *Chain) webhook(a *configv1.AuthorizerConfiguration, p *field.Path, l *links) (authz.Authorizer, field.ErrorList) {
	w := a.Webhook
	configv1.SetDefaults_WebhookConfiguration(w)
	errs := checkWebhook(w, p)
	var sources []string
	for _, m := range w.MatchConditions {
		sources = append(sources, m.Expression)
	}
	conditions, bad := webhook.Conditions(sources, p.Child("matchConditions"))
	errs = append(errs, bad...)
	if len(errs) > 0 {
		return nil, errs
	}
	target, err := callout.Open(*w.ConnectionInfo.KubeConfigFile)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(p.Child("connectionInfo", "kubeConfigFile"), *w.ConnectionInfo.KubeConfigFile, err.Error())}
	}
	l.targets = append(l.targets, target)
	cfg := webhook.Config{
		Name: a.Name, Target: target, Version: w.SubjectAccessReviewVersion, Timeout: w.Timeout.Duration,
		Deny: w.FailurePolicy == configv1.FailurePolicyDeny, Conditions: conditions, Retry: callout.Default, Now: c.cfg.Now,
	}
	if *w.CacheAuthorizedRequests {
		cfg.AuthorizedTTL = w.AuthorizedTTL.Duration
	}
	if *w.CacheUnauthorizedRequests {
		cfg.UnauthorizedTTL = w.UnauthorizedTTL.Duration
	}
	return webhook.New(cfg), nil
}

func checkWebhook(w *configv1.WebhookConfiguration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case w.Timeout.Duration == 0:
		errs = append(errs, field.Required(p.Child("timeout"), ""))
	case w.Timeout.Duration < 0 || w.Timeout.Duration > maxTimeout:
		errs = append(errs, field.Invalid(p.Child("timeout"), w.Timeout.Duration.String(), "must be > 0s and <= 30s"))
	}
	for name, ttl := range map[string]time.Duration{"authorizedTTL": w.AuthorizedTTL.Duration, "unauthorizedTTL": w.UnauthorizedTTL.Duration} {
		if ttl < 0 {
			errs = append(errs, field.Invalid(p.Child(name), ttl.String(), "must be > 0s"))
		}
	}
	one := func(name, value string, allowed ...string) {
		switch {
		case value == "":
			errs = append(errs, field.Required(p.Child(name), ""))
		case !slices.Contains(allowed, value):
			errs = append(errs, field.NotSupported(p.Child(name), value, allowed))
		}
	}
	one("subjectAccessReviewVersion", w.SubjectAccessReviewVersion, "v1", "v1beta1")
	if v := w.MatchConditionSubjectAccessReviewVersion; v != "" || len(w.MatchConditions) > 0 {
		one("matchConditionSubjectAccessReviewVersion", v, "v1")
	}
	one("failurePolicy", w.FailurePolicy, configv1.FailurePolicyNoOpinion, configv1.FailurePolicyDeny)
	info := p.Child("connectionInfo")
	switch t := w.ConnectionInfo.Type; {
	case t == "":
		errs = append(errs, field.Required(info.Child("type"), ""))
	case t != configv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile:
		errs = append(errs, field.NotSupported(info.Child("type"), t, []string{configv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile}))
	case w.ConnectionInfo.KubeConfigFile == nil || *w.ConnectionInfo.KubeConfigFile == "":
		errs = append(errs, field.Required(info.Child("kubeConfigFile"), ""))
	case (*w.ConnectionInfo.KubeConfigFile)[0] != '/':
		errs = append(errs, field.Invalid(info.Child("kubeConfigFile"), *w.ConnectionInfo.KubeConfigFile, "must be an absolute path"))
	}
	return errs
}

// always gives one answer to everything.
type always struct {
	decision authz.Decision
	reason   string
}

// Authorize implements authz.Authorizer.
func (a always) Authorize(context.Context, *authz.Attributes) (authz.Decision, string, error) {
	return a.decision, a.reason, nil
}

// RulesFor implements authz.RuleResolver.
func (a always) RulesFor(context.Context, client.User, string) ([]authz.ResourceRule, []authz.NonResourceRule, bool, error) {
	if a.decision != authz.Allow {
		return nil, nil, false, nil
	}
	all := []string{"*"}
	return []authz.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}}, []authz.NonResourceRule{{Verbs: all, Paths: all}}, false, nil
}
