// Package plugins holds the admission plugins that are on by default: a write
// goes in, changed, accepted or refused as 1.36 does it. They read what they
// need through a door, from what is at hand there, and keep nothing.
package plugins

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	// Disable names plugins that are left out (--disable-admission-plugins).
	Disable []string
}

// Default returns upstream's default chain in upstream's order.
func Default(c Config) []admission.Plugin {
	if c.Now == nil {
		c.Now = time.Now
	}
	d := deps{door: c.Door, authz: c.Authz, now: c.Now, log: c.Log}
	all := []*plugin{
		namespaceLifecycle(d),
		limitRanger(d),
		serviceAccount(d),
		nodeRestriction(d),
		taintNodesByCondition(),
		podSecurity(d),
		priority(d),
		defaultTolerationSeconds(),
		defaultStorageClass(d),
		storageObjectInUseProtection(),
		persistentVolumeClaimResize(d),
		runtimeClass(d),
		certificateApproval(d),
		certificateSigning(d),
		certificateSubjectRestriction(),
		defaultIngressClass(d),
		podTopologyLabels(d),
		resourceQuota(d), // last: what others refuse is not charged
	}
	out := make([]admission.Plugin, 0, len(all))
	for _, p := range all {
		if !slices.Contains(c.Disable, p.name) {
			out = append(out, p)
		}
	}
	for _, p := range c.Late {
		if !slices.Contains(c.Disable, p.Name()) {
			out = append(out, p)
		}
	}
	return out
}

type deps struct {
	door  client.Interface
	authz authz.Authorizer
	now   func() time.Time
	log   *slog.Logger
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
	return apierrors.NewForbidden(a.Resource.GroupResource(), nameOf(a), why)
}

func forbid(a *admission.Attributes, why string) error { return forbidden(a, errors.New(why)) }

// nameOf is the object's name; one that is yet to be made up is shown as its
// prefix and "Unknown" if there is none.
func nameOf(a *admission.Attributes) string {
	if a.Name != "" {
		return a.Name
	}
	if o, ok := a.Object.(client.Object); ok {
		if o.GetName() != "" {
			return o.GetName()
		}
		if o.GetGenerateName() != "" {
			return o.GetGenerateName()
		}
	}
	return "Unknown"
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
