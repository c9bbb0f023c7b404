// Package aggregation serves group versions through other API servers:
// APIServices go in, requests for their group versions are passed on to the
// Services behind them with the user in front-proxy headers, and what they
// serve appears in discovery. It also keeps an APIService for every group
// version that is served here. See the API page of apiregistration.k8s.io/v1
// and "Kubernetes API Aggregation Layer".
package aggregation

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/discovery"
	"github.com/coxswain/cox/client"
)

// Config is what aggregation is made of.
type Config struct {
	// Door reads and writes APIServices and reads what says whether their
	// Services can answer; its user must be allowed to.
	Door client.Interface
	// Kinds lists what this server serves itself.
	Kinds func() []*api.Kind
	// Dial connects to a Service.
	Dial func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)
	// Identity is the certificate by which the other servers know this one.
	Identity func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Changed, where set, is called after Extra has changed, and must not call
	// the aggregator.
	Changed func()
	Log     *slog.Logger
}

// APIServices is the kind that aggregation follows.
var APIServices = client.Kind[*apiregistrationv1.APIService]{
	GroupVersionResource: apiregistrationv1.SchemeGroupVersion.WithResource("apiservices"), Kind: "APIService",
	New:     func() *apiregistrationv1.APIService { return &apiregistrationv1.APIService{} },
	NewList: api.New[apiregistrationv1.APIServiceList](),
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// Aggregator passes requests on. It is safe for concurrent use.
type Aggregator struct {
	cfg   Config
	infs  *client.Informers
	list  cache.SharedIndexInformer
	wake  chan struct{}
	dirty atomic.Bool // what a check looks at has changed
	ready atomic.Bool // every APIService has been seen
	state atomic.Pointer[map[schema.GroupVersion]*backend]

	registered chan struct{}
	register   func() // closes it

	falls *prometheus.CounterVec

	mu      sync.Mutex // of what follows
	changes atomic.Int64
	shown   map[schema.GroupVersion]discovery.Version
}

// New makes an aggregator, which passes nothing on before Run.
func New(c Config) *Aggregator {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	a := &Aggregator{
		cfg: c, infs: client.NewInformers(c.Door), wake: make(chan struct{}, 1), registered: make(chan struct{}),
		shown: map[schema.GroupVersion]discovery.Version{}, falls: newFalls(),
	}
	a.register = sync.OnceFunc(func() { close(a.registered) })
	a.list = client.InformerFor(a.infs, APIServices).SharedIndexInformer
	a.state.Store(&map[schema.GroupVersion]*backend{})
	a.dirty.Store(true)
	return a
}

// Extra lists the group versions that other servers serve, those included
// whose server does not answer: clients must not take them for gone. The
// number changes whenever the list does.
func (a *Aggregator) Extra() ([]discovery.Version, int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.shown)), a.changes.Load()
}

// Synced says that Extra knows every APIService.
func (a *Aggregator) Synced() bool { return a.ready.Load() }

// Changes is the number of Extra alone.
func (a *Aggregator) Changes() int64 { return a.changes.Load() }

// Registered is closed once the APIServices have been read and those of this
// server are all there.
func (a *Aggregator) Registered() <-chan struct{} { return a.registered }

// show tells what the server behind an APIService serves; nil is that it did
// not say, so that what it served last is stale.
func (a *Aggregator) show(gv schema.GroupVersion, b *backend, list []metav1.APIResource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if (*a.state.Load())[gv] != b {
		return // gone or replaced meanwhile
	}
	v := discovery.Version{
		GV: gv, Resources: list, Stale: list == nil,
		Priority: discovery.Priority{Group: b.spec.GroupPriorityMinimum, Version: b.spec.VersionPriority},
	}
	old, ok := a.shown[gv]
	if v.Stale {
		v.Resources = old.Resources
	}
	if ok && reflect.DeepEqual(old, v) {
		return
	}
	a.shown[gv] = v
	a.changes.Add(1)
	a.cfg.Changed()
}

func (a *Aggregator) hide(gv schema.GroupVersion) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.shown[gv]; ok {
		delete(a.shown, gv)
		a.changes.Add(1)
		a.cfg.Changed()
	}
}

// The times between checks of a Service that can answer and, at first, of one
// that cannot. Without such Services there are no checks.
const (
	checkEvery = 30 * time.Second
	retryFirst = time.Second
)

// Run follows APIServices until ctx ends. Call it once. Servers are checked
// beside the loop: one that hangs delays no other APIService.
func (a *Aggregator) Run(ctx context.Context) error {
	if err := a.handle(a.list, func(_, _ any) { a.stir() }); err != nil {
		return err
	}
	if err := a.handle(a.infs.Any(definitions), func(_, _ any) { a.stir() }); err != nil {
		return err
	}
	a.infs.Start(ctx)
	if !a.infs.WaitForSync(ctx) {
		return ctx.Err()
	}
	type result struct{ waiting, remote bool }
	done := make(chan result, 1)
	var again, due <-chan time.Time
	checking, watching, retry := false, false, retryFirst
	for {
		a.follow()
		if !a.ready.Swap(true) {
			a.cfg.Changed()
		}
		again = nil
		if err := a.keepLocal(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("the APIServices of this server are not all there", "error", err)
			again = time.After(checkEvery / 10)
		} else if err == nil {
			a.register()
		}
		if len(*a.state.Load()) > 0 && !watching {
			watching = true
			if err := a.watchServices(ctx); err != nil {
				return err
			}
		}
		if !checking && a.dirty.Swap(false) {
			checking, due = true, nil
			go func() {
				waiting, remote := a.check(ctx)
				done <- result{waiting, remote}
			}()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.wake:
		case <-again:
		case <-due:
			a.dirty.Store(true)
		case r := <-done:
			checking = false
			switch {
			case r.waiting:
				due = time.After(retry)
				retry = min(2*retry, checkEvery)
			case r.remote:
				due, retry = time.After(checkEvery), retryFirst
			default:
				retry = retryFirst
			}
		}
	}
}

func (a *Aggregator) handle(inf cache.SharedIndexInformer, changed func(now, old any)) error {
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { changed(o, nil) },
		UpdateFunc: func(old, o any) { changed(o, old) },
		DeleteFunc: func(o any) { changed(nil, o) },
	})
	return err
}

// stir wakes the loop.
func (a *Aggregator) stir() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// watchServices asks for a check when a Service that an APIService names, or
// its endpoints, change. It costs nothing before there is such an APIService.
func (a *Aggregator) watchServices(ctx context.Context) error {
	concern := func(namespace, name string) {
		for _, b := range *a.state.Load() {
			if s := b.spec.Service; s.Namespace == namespace && s.Name == name {
				a.dirty.Store(true)
				a.stir()
				return
			}
		}
	}
	each := func(now, old any) {
		for _, o := range [...]any{now, old} {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			switch o := o.(type) {
			case *corev1.Service:
				concern(o.Namespace, o.Name)
			case *discoveryv1.EndpointSlice:
				concern(o.Namespace, o.Labels[discoveryv1.LabelServiceName])
			}
		}
	}
	if err := a.handle(client.InformerFor(a.infs, client.Services).SharedIndexInformer, each); err != nil {
		return err
	}
	if err := a.handle(client.InformerFor(a.infs, client.EndpointSlices).SharedIndexInformer, each); err != nil {
		return err
	}
	a.infs.Start(ctx)
	return nil
}

// follow makes the backends of the APIServices as they are now, and asks for a
// check if one is new. Who asked when the event came could ask too early: the
// check would not find it.
func (a *Aggregator) follow() {
	old := *a.state.Load()
	now := map[schema.GroupVersion]*backend{}
	for _, o := range a.list.GetStore().List() {
		s := o.(*apiregistrationv1.APIService)
		if s.Spec.Service == nil {
			continue
		}
		gv := schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
		b := old[gv]
		if b == nil || !b.sameAs(s) {
			b = newBackend(a.cfg, s)
		}
		now[gv] = b
	}
	a.state.Store(&now)
	for gv, b := range now {
		if old[gv] != b {
			a.show(gv, b, nil) // until it is asked
			a.dirty.Store(true)
		}
	}
	for gv, b := range old {
		if now[gv] != b {
			b.close()
		}
		if now[gv] == nil {
			a.hide(gv)
		}
	}
}
