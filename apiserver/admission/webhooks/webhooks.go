// Package webhooks asks admission webhooks: a write goes in, what the
// configured webhooks answer about it (AdmissionReview over HTTPS) changes or
// refuses it. The configurations are followed through a door. See the API
// pages of admissionregistration.k8s.io/v1 and "Dynamic Admission Control".
package webhooks

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/admission/match"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/callout"
	"github.com/coxswain/cox/client"
)

// Config is what webhooks are asked with.
type Config struct {
	// Door reads the configurations and namespaces; its user must be allowed
	// to.
	Door client.Interface
	// Served finds the versions of a resource.
	Served match.Served
	// Authz answers the questions of match conditions.
	Authz authz.Authorizer
	// Dial connects to a Service.
	Dial func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)
	// Mutators and Validators are who the webhooks of a sort are asked as; nil
	// is nobody.
	Mutators, Validators *callout.Users
	// Counts are the metrics of what is asked; nil for none.
	Counts *Counts
	Log    *slog.Logger
}

// Manager follows the configurations. It is safe for concurrent use.
type Manager struct {
	cfg   Config
	infs  *client.Informers
	lists [2]cache.SharedIndexInformer // mutating, validating
	gate  *admission.Gate

	mu sync.Mutex // held while hooks are compiled
	// changes counts what was seen of the configurations, compiled is up to
	// where hooks are made of them: only then are they used without the lock.
	changes, compiled [2]atomic.Uint64
	hooks             [2]atomic.Pointer[[]*hook]
	known             [2]map[types.UID]*compiled
}

const (
	mutating = iota
	validating
)

// compiled is one configuration at one resourceVersion.
type compiled struct {
	version string
	hooks   []*hook
}

// hook is one webhook, ready to be asked.
type hook struct {
	*admissionv1.MutatingWebhook
	config     string // the configuration's name
	uid        string // tells it from all others, also of the same name
	mutating   bool
	namespaces labels.Selector
	objects    labels.Selector
	conditions *match.Conditions
	client     *caller
	err        error // why it cannot be asked
}

var (
	mutatingKind = client.Kind[*admissionv1.MutatingWebhookConfiguration]{
		GroupVersionResource: admissionv1.SchemeGroupVersion.WithResource("mutatingwebhookconfigurations"), Kind: "MutatingWebhookConfiguration",
		New:     func() *admissionv1.MutatingWebhookConfiguration { return &admissionv1.MutatingWebhookConfiguration{} },
		NewList: api.New[admissionv1.MutatingWebhookConfigurationList](),
	}
	validatingKind = client.Kind[*admissionv1.ValidatingWebhookConfiguration]{
		GroupVersionResource: admissionv1.SchemeGroupVersion.WithResource("validatingwebhookconfigurations"), Kind: "ValidatingWebhookConfiguration",
		New: func() *admissionv1.ValidatingWebhookConfiguration {
			return &admissionv1.ValidatingWebhookConfiguration{}
		},
		NewList: api.New[admissionv1.ValidatingWebhookConfigurationList](),
	}
)

// New makes a manager. Writes wait until Run has read the configurations.
func New(c Config) *Manager {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{cfg: c, infs: client.NewInformers(c.Door), gate: admission.NewGate()}
	m.lists[mutating] = client.InformerFor(m.infs, mutatingKind).SharedIndexInformer
	m.lists[validating] = client.InformerFor(m.infs, validatingKind).SharedIndexInformer
	m.known = [2]map[types.UID]*compiled{{}, {}}
	return m
}

// Synced is closed once the configuration of the cluster has been read.
func (m *Manager) Synced() <-chan struct{} { return m.gate.Opened() }

// Run follows the configurations until ctx ends. Call it once.
func (m *Manager) Run(ctx context.Context) error {
	for i, inf := range m.lists {
		changed := func(any) { m.changes[i].Add(1) }
		if _, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: changed, DeleteFunc: changed, UpdateFunc: func(_, o any) { changed(o) },
		}); err != nil {
			return err
		}
		m.changes[i].Add(1)
	}
	m.infs.Start(ctx)
	if !m.infs.WaitForSync(ctx) {
		return ctx.Err()
	}
	m.gate.Open()
	<-ctx.Done()
	return ctx.Err()
}

// current returns the webhooks of one sort in the order in which they are
// asked, compiling what has changed.
func (m *Manager) current(sort int) []*hook {
	if hooks := m.hooks[sort].Load(); hooks != nil && m.compiled[sort].Load() == m.changes[sort].Load() {
		return *hooks
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.changes[sort].Load()
	if m.hooks[sort].Load() == nil || m.compiled[sort].Load() != n {
		hooks := m.compileAll(sort)
		m.hooks[sort].Store(&hooks)
		m.compiled[sort].Store(n)
	}
	return *m.hooks[sort].Load()
}

func (m *Manager) compileAll(sort int) []*hook {
	objects := m.lists[sort].GetStore().List()
	slices.SortFunc(objects, func(a, b any) int {
		return cmp.Compare(a.(client.Object).GetName(), b.(client.Object).GetName())
	})
	before, now := m.known[sort], map[types.UID]*compiled{}
	var out []*hook
	for _, o := range objects {
		obj := o.(client.Object)
		c := before[obj.GetUID()]
		if c == nil || c.version != obj.GetResourceVersion() {
			c = m.compile(obj)
		}
		now[obj.GetUID()] = c
		out = append(out, c.hooks...)
	}
	m.known[sort] = now
	for uid, c := range before {
		if now[uid] != c {
			for _, h := range c.hooks {
				h.client.close()
			}
		}
	}
	return out
}

func (m *Manager) compile(obj client.Object) *compiled {
	c := &compiled{version: obj.GetResourceVersion()}
	seen := map[string]int{}
	for _, w := range webhooksOf(obj) {
		h := &hook{MutatingWebhook: w, config: obj.GetName()}
		h.uid = obj.GetName() + "/" + w.Name + "/" + string(rune('0'+seen[w.Name]))
		seen[w.Name]++
		h.namespaces, h.err = match.Selector(w.NamespaceSelector)
		if h.err == nil {
			h.objects, h.err = match.Selector(w.ObjectSelector)
		}
		h.conditions = match.Compile(w.MatchConditions, expression.Scope{})
		var err error
		_, mutating := obj.(*admissionv1.MutatingWebhookConfiguration)
		users := m.cfg.Validators
		if mutating {
			users = m.cfg.Mutators
		}
		if h.client, err = newCaller(w, m.cfg.Dial, users); err != nil && h.err == nil {
			h.err = err
		}
		h.client.mutating, h.mutating = mutating, mutating
		c.hooks = append(c.hooks, h)
	}
	return c
}

// webhooksOf shows both sorts in the wider type.
func webhooksOf(obj runtime.Object) []*admissionv1.MutatingWebhook {
	var out []*admissionv1.MutatingWebhook
	switch c := obj.(type) {
	case *admissionv1.MutatingWebhookConfiguration:
		for i := range c.Webhooks {
			out = append(out, &c.Webhooks[i])
		}
	case *admissionv1.ValidatingWebhookConfiguration:
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			out = append(out, &admissionv1.MutatingWebhook{
				Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
				NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
				TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
			})
		}
	}
	return out
}

// ignores says that a webhook which cannot be asked is passed over.
func (h *hook) ignores() bool {
	return h.FailurePolicy != nil && *h.FailurePolicy == admissionv1.Ignore
}

// wants says whether the webhook is to be asked about a write, and in which
// version. The error is a Status for the user.
func (m *Manager) wants(ctx context.Context, h *hook, w *match.Write) (match.Seen, bool, error) {
	n, rules := match.RulesOf(h.Rules)
	seen, ok := w.Rules(n, rules, h.MatchPolicy)
	if !ok || h.namespaces == nil || h.objects == nil {
		return seen, ok && h.err != nil, nil
	}
	if ok, err := w.Namespaces(ctx, h.namespaces); !ok || err != nil {
		return seen, false, err
	}
	if !w.Objects(h.objects) {
		return seen, false, nil
	}
	if h.conditions.Empty() {
		return seen, true, nil
	}
	values, err := w.Values(ctx, seen, m.cfg.Authz, false)
	if err != nil {
		return seen, false, apierrors.NewInternalError(err)
	}
	begin := time.Now()
	ok, err = h.conditions.Match(ctx, values)
	m.cfg.Counts.matched(h, w.Operation, ok, err, time.Since(begin))
	if err == nil {
		return seen, ok, nil
	}
	if h.ignores() {
		m.cfg.Log.Warn("match conditions of a webhook failed; it is not asked", "webhook", h.Name, "error", err)
		return seen, false, nil
	}
	return seen, false, apierrors.NewForbidden(w.Resource.GroupResource(), w.ShownName(), err)
}
