// Package plugins holds the admission plugins that are chosen by name: a write
// goes in, changed, accepted or refused as 1.36 does it. They read what they
// need through a door, from what is at hand there, and keep nothing.
package plugins

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// Config is what the plugins are made of.
type Config struct {
	// Door reads cluster state; its user must be allowed to read all kinds.
	Door client.Interface
	// Authz answers whether a user may approve, sign and the like.
	Authz authz.Authorizer
	Log   *slog.Logger
	Now   func() time.Time
	// Late are the plugins that users configure by objects, in their order:
	// mutating policies and webhooks, then validating ones. They run behind
	// the others and before the quota.
	Late []admission.Plugin
	// Owners finds the resource of a kind that is served, and whether its
	// objects are in namespaces; false if it is not served.
	Owners func(schema.GroupVersionKind) (resource string, namespaced, ok bool)

	// Select chooses plugins; empty, those run that upstream's do.
	Select Selection
	// Configs are plugins' configurations by their names, as ReadConfigs reads
	// them.
	Configs map[string][]byte
	// NotReadySeconds and UnreachableSeconds are how long pods stay on a node
	// that is lost, in seconds; nil is 300.
	NotReadySeconds, UnreachableSeconds *int64
}

func (c *Config) complete() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Owners == nil {
		c.Owners = func(schema.GroupVersionKind) (string, bool, bool) { return "", false, false }
	}
	for _, n := range []**int64{&c.NotReadySeconds, &c.UnreachableSeconds} {
		if *n == nil {
			*n = new(int64(300))
		}
	}
}

type deps struct {
	door  client.Interface
	authz authz.Authorizer
	now   func() time.Time
	log   *slog.Logger
	// owners is Config.Owners.
	owners func(schema.GroupVersionKind) (resource string, namespaced, ok bool)
}

type phase func(ctx context.Context, a *admission.Attributes) error

// plugin is one plugin as two functions, either of which may be nil.
type plugin struct {
	name     string
	ops      []admission.Operation
	admit    phase
	validate phase
}

func (p *plugin) Name() string                        { return p.name }
func (p *plugin) Handles(op admission.Operation) bool { return slices.Contains(p.ops, op) }

// Phases says in which phases the plugin does something.
func (p *plugin) Phases() (admits, validates bool) { return p.admit != nil, p.validate != nil }

func (p *plugin) Admit(ctx context.Context, a *admission.Attributes) error {
	if p.admit == nil {
		return nil
	}
	return p.admit(ctx, a)
}

func (p *plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if p.validate == nil {
		return nil
	}
	return p.validate(ctx, a)
}

func ops(o ...admission.Operation) []admission.Operation { return o }

// is says that the write is of a resource and subresource.
func is(a *admission.Attributes, gr schema.GroupResource, sub string) bool {
	return a.Resource.GroupResource() == gr && a.Subresource == sub
}

var (
	podsResource       = client.Pods.GroupResource()
	nodesResource      = client.Nodes.GroupResource()
	namespacesResource = client.Namespaces.GroupResource()
)

// forbidden is the refusal of a write with a reason.
func forbidden(a *admission.Attributes, why error) error {
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.ShownName(), why)
}

func forbid(a *admission.Attributes, why string) error { return forbidden(a, errors.New(why)) }

// unreasoned is the answer to a write that upstream's plugin refuses without a
// reason: 500 and the text.
func unreasoned(text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: text}}
}

// atHand asks for any state that the server has, which costs a map lookup.
func atHand() client.Option { return client.WithOptions(client.Options{ResourceVersion: "0"}) }

// get reads an object from what is at hand, and the newest state only when it
// is not there: it may have been made a moment ago.
func get[T client.Object](ctx context.Context, in client.Resource[T], name string) (T, error) {
	obj, err := in.Get(ctx, name, atHand())
	if apierrors.IsNotFound(err) {
		return in.Get(ctx, name)
	}
	return obj, err
}

// list reads what is at hand of a kind.
func list[T client.Object](ctx context.Context, in client.Resource[T]) ([]T, error) {
	out, _, err := in.List(ctx, client.Options{ResourceVersion: "0"})
	return out, err
}
