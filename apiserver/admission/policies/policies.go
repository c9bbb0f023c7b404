// Package policies carries out ValidatingAdmissionPolicy and
// MutatingAdmissionPolicy: a write goes in, CEL expressions of the policies
// bound to it change, refuse, annotate or comment on it. Policies, bindings
// and parameters are read through a door. See the API pages of
// admissionregistration.k8s.io/v1.
package policies

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/admission/match"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// Config is what policies are carried out with.
type Config struct {
	// Door reads policies, bindings, parameters and namespaces, and writes the
	// policies' status; its user must be allowed to.
	Door client.Interface
	// Served finds the versions of a resource, ServedKind the resource of a
	// kind, Types the schema by which its objects are merged.
	Served     match.Served
	ServedKind func(schema.GroupVersionKind) (api.Served, bool)
	Types      func(schema.GroupVersionResource) (managedfields.TypeConverter, error)
	// Authz answers what expressions ask of authorizer.
	Authz authz.Authorizer
	// Document returns an OpenAPI document as JSON ("v3/apis/apps/v1"), by
	// which policies are type-checked; nil leaves that out.
	Document func(path string) ([]byte, error)
	// Counts are the metrics of what is carried out; nil for none.
	Counts *Counts
	Log    *slog.Logger
}

// Manager follows policies and bindings. It is safe for concurrent use.
type Manager struct {
	cfg   Config
	infs  *client.Informers
	sorts [2]sort
	gate  *admission.Gate
	wake  chan struct{} // policies have changed

	mu sync.Mutex // held while policies are compiled
}

// sort is one sort of policies with its bindings.
type sort struct {
	policies, bindings cache.SharedIndexInformer
	changes            atomic.Int64 // counts what the informers told
	current            atomic.Pointer[compiled]
	known              map[types.UID]*policy
}

// compiled are the policies as of a count of changes.
type compiled struct {
	changes int64
	list    []*policy
}

const (
	mutating = iota
	validating
)

// The kinds that the manager follows.
var (
	ValidatingPolicies = client.Kind[*admissionv1.ValidatingAdmissionPolicy]{
		GroupVersionResource: admissionv1.SchemeGroupVersion.WithResource("validatingadmissionpolicies"), Kind: "ValidatingAdmissionPolicy",
		New:     func() *admissionv1.ValidatingAdmissionPolicy { return &admissionv1.ValidatingAdmissionPolicy{} },
		NewList: api.New[admissionv1.ValidatingAdmissionPolicyList](),
	}
	ValidatingBindings = client.Kind[*admissionv1.ValidatingAdmissionPolicyBinding]{
		GroupVersionResource: admissionv1.SchemeGroupVersion.WithResource("validatingadmissionpolicybindings"), Kind: "ValidatingAdmissionPolicyBinding",
		New: func() *admissionv1.ValidatingAdmissionPolicyBinding {
			return &admissionv1.ValidatingAdmissionPolicyBinding{}
		},
		NewList: api.New[admissionv1.ValidatingAdmissionPolicyBindingList](),
	}
	MutatingPolicies = client.Kind[*admissionv1.MutatingAdmissionPolicy]{
		GroupVersionResource: admissionv1.SchemeGroupVersion.WithResource("mutatingadmissionpolicies"), Kind: "MutatingAdmissionPolicy",
		New:     func() *admissionv1.MutatingAdmissionPolicy { return &admissionv1.MutatingAdmissionPolicy{} },
		NewList: api.New[admissionv1.MutatingAdmissionPolicyList](),
	}
	MutatingBindings = client.Kind[*admissionv1.MutatingAdmissionPolicyBinding]{
		GroupVersionResource: admissionv1.SchemeGroupVersion.WithResource("mutatingadmissionpolicybindings"), Kind: "MutatingAdmissionPolicyBinding",
		New: func() *admissionv1.MutatingAdmissionPolicyBinding {
			return &admissionv1.MutatingAdmissionPolicyBinding{}
		},
		NewList: api.New[admissionv1.MutatingAdmissionPolicyBindingList](),
	}
)

// New makes a manager. Writes wait until Run has read policies and bindings.
func New(c Config) *Manager {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{cfg: c, infs: client.NewInformers(c.Door), gate: admission.NewGate(), wake: make(chan struct{}, 1)}
	v, mu := &m.sorts[validating], &m.sorts[mutating]
	v.policies = client.InformerFor(m.infs, ValidatingPolicies).SharedIndexInformer
	v.bindings = client.InformerFor(m.infs, ValidatingBindings).SharedIndexInformer
	mu.policies = client.InformerFor(m.infs, MutatingPolicies).SharedIndexInformer
	mu.bindings = client.InformerFor(m.infs, MutatingBindings).SharedIndexInformer
	return m
}

// Synced is closed once the configuration of the cluster has been read.
func (m *Manager) Synced() <-chan struct{} { return m.gate.Opened() }

// Run follows policies and bindings until ctx ends. Call it once.
func (m *Manager) Run(ctx context.Context) error {
	for i := range m.sorts {
		s := &m.sorts[i]
		changed := func(any) {
			s.changes.Add(1)
			select {
			case m.wake <- struct{}{}:
			default:
			}
		}
		for _, inf := range []cache.SharedIndexInformer{s.policies, s.bindings} {
			if _, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc: changed, DeleteFunc: changed, UpdateFunc: func(_, o any) { changed(o) },
			}); err != nil {
				return err
			}
		}
	}
	m.infs.Start(ctx)
	if !m.infs.WaitForSync(ctx) {
		return ctx.Err()
	}
	m.gate.Open()
	for retry := time.Second; ; retry = min(2*retry, time.Minute) {
		var again <-chan time.Time
		if m.judge(ctx) {
			retry = time.Second
		} else {
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		case <-again:
		}
	}
}

// bound returns the policies that have bindings, by name, compiling what has
// changed.
func (m *Manager) bound(i int) []*policy {
	s := &m.sorts[i]
	if c := s.current.Load(); c != nil && c.changes == s.changes.Load() {
		return c.list
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Counted before compiling: what changes meanwhile is compiled next time,
	// and nobody sees the old list for current until the new one is there.
	changes := s.changes.Load()
	if c := s.current.Load(); c != nil && c.changes == changes {
		return c.list
	}
	c := &compiled{changes, s.compile()}
	s.current.Store(c)
	return c.list
}

func (s *sort) compile() []*policy {
	bindings := map[string][]*binding{}
	for _, o := range s.bindings.GetStore().List() {
		b := newBinding(o)
		bindings[b.policy] = append(bindings[b.policy], b)
	}
	now := map[types.UID]*policy{}
	var out []*policy
	for _, o := range s.policies.GetStore().List() {
		obj := o.(client.Object)
		bs := bindings[obj.GetName()]
		if len(bs) == 0 {
			continue
		}
		p := s.known[obj.GetUID()]
		if p == nil || p.version != obj.GetResourceVersion() {
			p = newPolicy(obj)
		}
		now[obj.GetUID()] = p
		slices.SortFunc(bs, func(a, b *binding) int { return cmp.Compare(a.name, b.name) })
		withBindings := *p // p may be in use with other bindings
		withBindings.bindings = bs
		out = append(out, &withBindings)
	}
	s.known = now
	slices.SortFunc(out, func(a, b *policy) int { return cmp.Compare(a.name, b.name) })
	return out
}

// unasked are resources that no policy sees: they ask the server questions
// and store nothing.
func unasked(a *admission.Attributes) bool {
	if match.Exempt(a) {
		return true
	}
	switch a.Resource.Group {
	case "authentication.k8s.io":
		return a.Resource.Resource == "tokenreviews" || a.Resource.Resource == "selfsubjectreviews"
	case "authorization.k8s.io":
		return true
	}
	return false
}
