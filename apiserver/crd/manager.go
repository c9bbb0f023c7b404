package crd

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/apiextensions"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
)

// Definitions is CustomResourceDefinition as a client sees it.
var definitions = client.Kind[*extv1.CustomResourceDefinition]{
	GroupVersionResource: extv1.SchemeGroupVersion.WithResource("customresourcedefinitions"), Kind: "CustomResourceDefinition",
	New:     func() *extv1.CustomResourceDefinition { return &extv1.CustomResourceDefinition{} },
	NewList: func() runtime.Object { return &extv1.CustomResourceDefinitionList{} },
}

// Config is what a Manager works with.
type Config struct {
	// Door is the API under the API server's own identity.
	Door client.Interface
	// Server gets the rows.
	Server *apiserver.Server
	// Forget ends the cache and the watches of a row that is served no more
	// (store.Forget).
	Forget func(*api.Kind)
	// Resolve finds the Services of conversion webhooks; nil reaches none.
	Resolve Resolver
	Log     *slog.Logger
}

// Manager keeps the custom resources that are served in step with their
// definitions. It costs one watch, whatever the number of definitions.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	all     client.Informer[*extv1.CustomResourceDefinition]
	loop    *client.Loop
	synced  chan struct{}
	first   sync.Once // closes synced
	changed chan struct{}
	docs    *documents

	mu       sync.Mutex
	served   map[string]*serving // by the definition's name
	cleaning map[string]bool
	wg       sync.WaitGroup
}

// serving is a definition that is served, as it was when its row was made.
type serving struct {
	*definition
	row *api.Kind
}

// New makes a manager; Run starts it.
func New(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		cfg: cfg, log: cfg.Log, synced: make(chan struct{}), changed: make(chan struct{}, 1),
		served: map[string]*serving{}, cleaning: map[string]bool{},
	}
	m.docs = newDocuments(m)
	return m
}

// Synced is closed once every definition that there was at the start is
// served.
func (m *Manager) Synced() <-chan struct{} { return m.synced }

// Changed gets a value after what is served has changed.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

// Announce gives Changed a value because of what other servers serve.
func (m *Manager) Announce() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Run serves definitions until ctx ends. It may be called again once it has
// returned.
func (m *Manager) Run(ctx context.Context) error {
	m.loop = client.NewLoop("crd", m.log, m.reconcile)
	informers := client.NewInformers(m.cfg.Door)
	m.all = client.InformerFor(informers, definitions)
	if err := m.all.AddIndex("group", func(d *extv1.CustomResourceDefinition) []string { return []string{d.Spec.Group} }); err != nil {
		return err
	}
	reg, err := m.all.OnChange(func(obj, old *extv1.CustomResourceDefinition) { m.noticed(obj, old) })
	if err != nil {
		return err
	}
	informers.Start(ctx)
	if !client.WaitForSync(ctx, reg.HasSyncedChecker()) {
		return ctx.Err()
	}
	for _, d := range m.all.List("", nil) {
		if apiextensions.Is(d, extv1.Established) {
			m.serve(d)
		}
	}
	m.first.Do(func() { close(m.synced) })
	m.loop.Run(ctx, 1)
	m.wg.Wait()
	return ctx.Err()
}

// noticed is told of every change of a definition; obj is nil for one that is
// gone, old for a new one.
func (m *Manager) noticed(obj, old *extv1.CustomResourceDefinition) {
	if obj != nil {
		m.loop.Add(obj.Name)
		return
	}
	m.loop.Add(old.Name)
	// Its names are free for those that wait for them.
	for _, d := range m.all.ByIndex("group", old.Spec.Group) {
		if !apiextensions.Is(d, extv1.NamesAccepted) {
			m.loop.Add(d.Name)
		}
	}
}

func (m *Manager) reconcile(ctx context.Context, name string) (time.Duration, error) {
	d, ok := m.all.Get("", name)
	if !ok {
		m.unserve(name)
		return 0, nil
	}
	var others []*extv1.CustomResourceDefinition
	for _, o := range m.all.ByIndex("group", d.Spec.Group) {
		if o.Name != name {
			others = append(others, o)
		}
	}
	next := d.DeepCopy()
	changed := judgeNames(next, takenBy(others))
	if apiextensions.Is(next, extv1.Established) {
		// Served before it says so: who waits for the condition may go on. Listed
		// after it says so: who waits for discovery finds the definition settled.
		m.serve(next)
	}
	if changed {
		_, err := definitions.In(m.cfg.Door, "").UpdateStatus(ctx, next.DeepCopy())
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return 0, nil // the newer state comes by itself
		}
		return 0, err
	}
	if d.DeletionTimestamp != nil {
		m.cleanUp(ctx, d)
	}
	return 0, nil
}

// serve makes the API server serve a definition, unless it does so already in
// this form.
func (m *Manager) serve(d *extv1.CustomResourceDefinition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.served[d.Name]
	if old != nil && sameRow(old.crd, d) {
		m.show(old.row, d)
		return
	}
	var webhook *converter
	if c := d.Spec.Conversion; c != nil && c.Strategy == extv1.WebhookConverter && c.Webhook != nil && c.Webhook.ClientConfig != nil {
		webhook = newConverter(c.Webhook, m.cfg.Resolve)
	}
	def, err := newDefinition(d, webhook)
	if err != nil {
		m.log.Error("a definition cannot be served", "definition", d.Name, "error", err)
		return
	}
	row := def.row()
	if !m.cfg.Server.AddKind(row, apiserver.Hook{Begin: def.refuse}) {
		m.log.Error("a definition cannot replace a built-in resource", "definition", d.Name)
		return
	}
	m.served[d.Name] = &serving{def, row}
	m.show(row, d)
	if old != nil {
		m.cfg.Forget(old.row)
	}
	m.tell()
}

// show lists a row in discovery once the store has its definition as
// established.
func (m *Manager) show(row *api.Kind, d *extv1.CustomResourceDefinition) {
	if known, ok := m.all.Get("", d.Name); ok && apiextensions.Is(known, extv1.Established) && m.cfg.Server.ShowKind(row.GR()) {
		m.tell()
	}
}

// sameRow says that two states of a definition make the same row.
func sameRow(a, b *extv1.CustomResourceDefinition) bool {
	return a.UID == b.UID && a.Generation == b.Generation && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		equalNames(&a.Status.AcceptedNames, &b.Status.AcceptedNames)
}

func (m *Manager) unserve(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.served[name]
	if old == nil {
		return
	}
	delete(m.served, name)
	m.cfg.Server.RemoveKind(old.row.GR())
	m.cfg.Forget(old.row)
	m.tell()
}

// tell lets those who list what is served know; m.mu is held.
func (m *Manager) tell() {
	m.docs.changed()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// refuse keeps new objects out of a definition that is going.
func (d *definition) refuse(_ context.Context, req *client.Request, obj, old runtime.Object) (func(bool), error) {
	if d.terminating && obj != nil && old == nil {
		return nil, apierrors.NewForbidden(schema.GroupResource{Group: d.group, Resource: req.Resource.Resource}, obj.(metav1.Object).GetName(),
			errors.New("create not allowed while custom resource definition is terminating"))
	}
	return nil, nil
}

// cleanUp deletes the objects of a definition in the background, then lets the
// definition go.
func (m *Manager) cleanUp(ctx context.Context, d *extv1.CustomResourceDefinition) {
	if !hasFinalizer(d) {
		return
	}
	m.mu.Lock()
	busy := m.cleaning[d.Name]
	m.cleaning[d.Name] = true
	m.mu.Unlock()
	if busy {
		return
	}
	m.wg.Go(func() {
		err := m.empty(ctx, d)
		m.mu.Lock()
		delete(m.cleaning, d.Name)
		m.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			m.log.Warn("objects of a definition could not be deleted", "definition", d.Name, "error", err)
			m.loop.AddAfter(d.Name, 5*time.Second)
		}
	})
}

func hasFinalizer(d *extv1.CustomResourceDefinition) bool {
	for _, f := range d.Finalizers {
		if f == extv1.CustomResourceCleanupFinalizer {
			return true
		}
	}
	return false
}

// empty deletes the objects, waits until they are gone and takes the finalizer
// away.
func (m *Manager) empty(ctx context.Context, d *extv1.CustomResourceDefinition) error {
	m.mu.Lock()
	s := m.served[d.Name]
	m.mu.Unlock()
	crds := definitions.In(m.cfg.Door, "")
	if s != nil && len(s.row.Views) > 0 {
		if err := m.say(ctx, d.Name, extv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress"); err != nil {
			return err
		}
		if err := m.deleteAll(ctx, s); err != nil {
			_ = m.say(ctx, d.Name, extv1.ConditionTrue, "InstanceDeletionFailed", "could not confirm zero CustomResources remaining: "+err.Error())
			return err
		}
	}
	if err := m.say(ctx, d.Name, extv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances"); err != nil {
		return ignoreGone(err)
	}
	_, err := crds.Mutate(ctx, d.Name, "", func(c *extv1.CustomResourceDefinition) (bool, error) {
		var left []string
		for _, f := range c.Finalizers {
			if f != extv1.CustomResourceCleanupFinalizer {
				left = append(left, f)
			}
		}
		gone := len(left) < len(c.Finalizers)
		c.Finalizers = left
		return gone, nil
	})
	return ignoreGone(err)
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// say sets the Terminating condition.
func (m *Manager) say(ctx context.Context, name string, s extv1.ConditionStatus, reason, message string) error {
	_, err := definitions.In(m.cfg.Door, "").Mutate(ctx, name, "status", func(d *extv1.CustomResourceDefinition) (bool, error) {
		return apiextensions.SetCondition(d, extv1.Terminating, s, reason, message), nil
	})
	return err
}

// deleteAll deletes every object of a row and returns when none is left.
func (m *Manager) deleteAll(ctx context.Context, s *serving) error {
	gvr := s.row.Views[0].GroupVersion().WithResource(s.row.Resource)
	for i := range s.row.Views {
		if s.row.Views[i].GroupVersionKind == s.row.Hub { // nothing to convert
			gvr = s.row.Hub.GroupVersion().WithResource(s.row.Resource)
		}
	}
	if _, err := m.cfg.Door.Do(ctx, &client.Request{Verb: client.DeleteCollection, Resource: gvr}); err != nil {
		return err
	}
	res, err := m.cfg.Door.Do(ctx, &client.Request{Verb: client.List, Resource: gvr})
	if err != nil {
		return err
	}
	left := map[string]bool{}
	for _, o := range res.List.Items {
		if key, err := cache.MetaNamespaceKeyFunc(o); err == nil {
			left[key] = true
		}
	}
	if len(left) == 0 {
		return nil
	}
	w, err := m.cfg.Door.Watch(ctx, &client.Request{Verb: client.Watch, Resource: gvr, Options: client.Options{ResourceVersion: res.List.ResourceVersion}})
	if err != nil {
		return err
	}
	defer w.Stop()
	for len(left) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev, ok := <-w.ResultChan():
			if !ok {
				return errors.New("the watch of what is left ended")
			}
			if key, err := cache.MetaNamespaceKeyFunc(ev.Object); ev.Type == "DELETED" && err == nil {
				delete(left, key)
			}
		}
	}
	return nil
}
