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
	"net"
	"sync"
	"sync/atomic"
	"time"

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
	Log      *slog.Logger
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
	state atomic.Pointer[map[schema.GroupVersion]*backend]

	mu      sync.Mutex // of what follows
	changes atomic.Int64
	shown   map[schema.GroupVersion]discovery.Version
}

// New makes an aggregator, which passes nothing on before Run.
func New(c Config) *Aggregator {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	a := &Aggregator{
		cfg: c, infs: client.NewInformers(c.Door), wake: make(chan struct{}, 1), shown: map[schema.GroupVersion]discovery.Version{},
	}
	a.list = client.InformerFor(a.infs, APIServices).SharedIndexInformer
	a.state.Store(&map[schema.GroupVersion]*backend{})
	return a
}

// Extra lists the group versions that other servers are known to serve; the
// number changes whenever the list does.
func (a *Aggregator) Extra() ([]discovery.Version, int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]discovery.Version, 0, len(a.shown))
	for _, v := range a.shown {
		out = append(out, v)
	}
	return out, a.changes.Load()
}

// Changes is the number of Extra alone.
func (a *Aggregator) Changes() int64 { return a.changes.Load() }

func (a *Aggregator) show(gv schema.GroupVersion, list []metav1.APIResource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if list == nil {
		if _, ok := a.shown[gv]; !ok {
			return
		}
		delete(a.shown, gv)
	} else {
		if same(a.shown[gv].Resources, list) {
			return
		}
		a.shown[gv] = discovery.Version{GV: gv, Resources: list}
	}
	a.changes.Add(1)
}

// The times between checks of a Service that can answer and, at first, of one
// that cannot. Without such Services there are no checks.
const (
	checkEvery = 30 * time.Second
	retryFirst = time.Second
)

// Run follows APIServices until ctx ends. Call it once.
func (a *Aggregator) Run(ctx context.Context) error {
	wake := func(any) {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	events := cache.ResourceEventHandlerFuncs{AddFunc: wake, DeleteFunc: wake, UpdateFunc: func(_, o any) { wake(o) }}
	for _, inf := range []cache.SharedIndexInformer{a.list, a.infs.Any(definitions)} {
		if _, err := inf.AddEventHandler(events); err != nil {
			return err
		}
	}
	a.infs.Start(ctx)
	if !a.infs.WaitForSync(ctx) {
		return ctx.Err()
	}
	var timer <-chan time.Time
	retry := retryFirst
	for {
		a.follow()
		settled, err := a.keepLocal(ctx)
		if err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("the APIServices of this server are not all there", "error", err)
			settled = false
		}
		waiting, remote := a.check(ctx)
		timer = nil
		switch {
		case waiting || !settled:
			timer = time.After(retry)
			retry = min(2*retry, checkEvery)
		case remote:
			timer, retry = time.After(checkEvery), retryFirst
		default:
			retry = retryFirst
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.wake:
		case <-timer:
		}
	}
}

// follow makes the backends of the APIServices as they are now.
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
	for gv, b := range old {
		if now[gv] != b {
			b.close()
		}
		if now[gv] == nil {
			a.show(gv, nil)
		}
	}
}
