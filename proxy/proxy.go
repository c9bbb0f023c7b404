package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/datapath/lb"
)

// Config is what a proxy needs. Informers read as system:kube-proxy or as the
// node.
type Config struct {
	Informers *client.Informers
	NodeName  string
	// V4 and V6 are the kernel tables; either may be nil.
	V4, V6 lb.Table
	// Conntrack forgets connections; nil keeps them all (tests).
	Conntrack Conntrack
	Log       *slog.Logger
}

// Conntrack forgets the kernel's record of UDP flows, which otherwise would
// go on to a backend that is gone.
type Conntrack interface {
	// ForgetBackends drops the UDP flows that end at any of the backends.
	ForgetBackends(gone []netip.AddrPort) error
	// ForgetFrontends drops the UDP flows to addresses and ports that had no
	// backend and were let through or refused.
	ForgetFrontends(frontends []netip.AddrPort) error
}

// byService is the slices' index.
const byService = "service"

// Proxy keeps the kernel's rules equal to the Services. Make one with New,
// then Run it once.
type Proxy struct {
	cfg      Config
	log      *slog.Logger
	services client.Informer[*corev1.Service]
	slices   client.Informer[*discoveryv1.EndpointSlice]
	synced   []cache.DoneChecker
	signal   chan struct{}
	health   *healthPorts
	progress *progress

	mu    sync.Mutex
	dirty map[string]bool
	// ready counts, per address, the applied plans in which it is a ready
	// endpoint; moved is closed and replaced whenever that changes.
	ready map[netip.Addr]int
	moved chan struct{}

	plans map[string]Plan // as applied; Run's own
}

// New prepares a proxy and its informers' handlers; the caller starts the
// informers.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{
		cfg: cfg, log: cfg.Log, signal: make(chan struct{}, 1), dirty: map[string]bool{},
		ready: map[netip.Addr]int{}, moved: make(chan struct{}), plans: map[string]Plan{},
		health: newHealthPorts(cfg.Log), progress: newProgress(),
	}
	p.services = client.InformerFor(cfg.Informers, client.Services)
	p.slices = client.InformerFor(cfg.Informers, client.EndpointSlices)
	if err := p.slices.AddIndexers(cache.Indexers{byService: func(o any) ([]string, error) {
		return []string{serviceKey(o.(*discoveryv1.EndpointSlice))}, nil
	}}); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	a, err := p.services.OnChange(func(obj, old *corev1.Service) {
		if obj == nil {
			obj = old
		}
		p.progress.services.Inc()
		p.touch(obj.Namespace + "/" + obj.Name)
	})
	if err != nil {
		return nil, fmt.Errorf("watch services: %w", err)
	}
	b, err := p.slices.OnChange(func(obj, old *discoveryv1.EndpointSlice) {
		p.progress.endpoint.Inc()
		for _, s := range []*discoveryv1.EndpointSlice{obj, old} {
			if s != nil {
				p.touch(serviceKey(s))
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("watch endpoint slices: %w", err)
	}
	p.synced = []cache.DoneChecker{a.HasSyncedChecker(), b.HasSyncedChecker()}
	return p, nil
}

func serviceKey(s *discoveryv1.EndpointSlice) string {
	return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
}

func (p *Proxy) touch(key string) {
	p.mu.Lock()
	p.dirty[key] = true
	p.progress.queue(time.Now())
	p.mu.Unlock()
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

// Run applies changes until ctx ends; the rules stay in the kernel. It begins
// once both kinds have been listed, so that nothing is taken away for being
// unknown yet. A kernel error is answered by writing everything anew.
func (p *Proxy) Run(ctx context.Context) error {
	if !client.WaitForSync(ctx, p.synced...) {
		return ctx.Err()
	}
	defer p.health.close()
	whole := true
	var retry <-chan time.Time
	for {
		keys := p.take()
		begin := time.Now()
		var err error
		if whole {
			err = p.reset()
		} else {
			err = p.apply(keys)
		}
		retry = nil
		if whole = err != nil; whole {
			p.log.Error("the kernel's service rules could not be written, writing them anew", "error", err)
			retry = time.After(time.Second)
		} else {
			now := time.Now()
			p.progress.done(now, now.Sub(begin))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-retry:
		case <-p.signal:
		}
	}
}

func (p *Proxy) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress.take()
	keys := make([]string, 0, len(p.dirty))
	for k := range p.dirty {
		keys = append(keys, k)
	}
	clear(p.dirty)
	slices.Sort(keys)
	return keys
}

func (p *Proxy) plan(key string) Plan {
	svc, _ := p.services.GetKey(key)
	return MakePlan(svc, p.slices.ByIndex(byService, key), p.cfg.NodeName)
}

// reset writes all rules.
func (p *Proxy) reset() error {
	plans := map[string]Plan{}
	var v4, v6 []lb.Rule
	for _, svc := range p.services.List("", nil) {
		key := svc.Namespace + "/" + svc.Name
		plan := p.plan(key)
		plans[key] = plan
		v4, v6 = append(v4, plan.V4...), append(v6, plan.V6...)
	}
	if p.cfg.V4 != nil {
		if err := p.cfg.V4.Reset(v4); err != nil {
			return err
		}
	}
	if p.cfg.V6 != nil {
		if err := p.cfg.V6.Reset(v6); err != nil {
			return err
		}
	}
	old := p.plans
	p.plans = plans
	for key := range old {
		if _, ok := plans[key]; !ok {
			plans[key] = Plan{}
		}
	}
	for key, plan := range plans {
		p.settle(key, old[key], plan)
	}
	return nil
}

// apply writes what the changed Services need, in one step per family.
func (p *Proxy) apply(keys []string) error {
	var set4, set6 []lb.Rule
	var del4, del6 []string
	next := map[string]Plan{}
	for _, key := range keys {
		plan, old := p.plan(key), p.plans[key]
		if reflect.DeepEqual(plan, old) {
			continue
		}
		next[key] = plan
		set, del := difference(plan.V4, old.V4)
		set4, del4 = append(set4, set...), append(del4, del...)
		set, del = difference(plan.V6, old.V6)
		set6, del6 = append(set6, set...), append(del6, del...)
	}
	if p.cfg.V4 != nil && len(set4)+len(del4) > 0 {
		if err := p.cfg.V4.Apply(set4, del4); err != nil {
			return err
		}
	}
	if p.cfg.V6 != nil && len(set6)+len(del6) > 0 {
		if err := p.cfg.V6.Apply(set6, del6); err != nil {
			return err
		}
	}
	for key, plan := range next {
		p.settle(key, p.plans[key], plan)
	}
	return nil
}

// difference returns the rules to write and the IDs to remove.
func difference(now, old []lb.Rule) (set []lb.Rule, del []string) {
	for _, r := range now {
		if i := slices.IndexFunc(old, func(o lb.Rule) bool { return o.ID == r.ID }); i < 0 || !reflect.DeepEqual(old[i], r) {
			set = append(set, r)
		}
	}
	for _, o := range old {
		if !slices.ContainsFunc(now, func(r lb.Rule) bool { return r.ID == o.ID }) {
			del = append(del, o.ID)
		}
	}
	return set, del
}

// settle records an applied plan and does what follows from it.
func (p *Proxy) settle(key string, old, plan Plan) {
	if plan.empty() {
		delete(p.plans, key)
	} else {
		p.plans[key] = plan
	}
	p.health.set(key, plan.HealthPort, plan.LocalReady)
	p.mu.Lock()
	for _, a := range old.Ready {
		if p.ready[a]--; p.ready[a] <= 0 {
			delete(p.ready, a)
		}
	}
	for _, a := range plan.Ready {
		p.ready[a]++
	}
	close(p.moved)
	p.moved = make(chan struct{})
	p.mu.Unlock()
	if p.cfg.Conntrack == nil {
		return
	}
	gone, woken := staleFlows(append(old.V4, old.V6...), append(plan.V4, plan.V6...))
	if len(gone) > 0 {
		if err := p.cfg.Conntrack.ForgetBackends(gone); err != nil {
			p.log.Warn("old UDP flows were not forgotten", "service", key, "error", err)
		}
	}
	if len(woken) > 0 {
		if err := p.cfg.Conntrack.ForgetFrontends(woken); err != nil {
			p.log.Warn("old UDP flows were not forgotten", "service", key, "error", err)
		}
	}
}

func (p *Plan) empty() bool { return len(p.V4)+len(p.V6) == 0 }

// staleFlows finds the UDP backends that are gone, and the UDP frontends that
// have backends now and had none.
func staleFlows(old, now []lb.Rule) (gone, woken []netip.AddrPort) {
	used := map[netip.AddrPort]bool{}
	before := map[string]bool{}
	for _, r := range now {
		for _, b := range r.Internal {
			used[b] = true
		}
	}
	for _, r := range old {
		if r.Protocol != lb.UDP {
			continue
		}
		before[r.ID] = len(r.Internal) > 0
		for _, b := range r.Internal {
			if !used[b] && !slices.Contains(gone, b) {
				gone = append(gone, b)
			}
		}
	}
	for _, r := range now {
		if r.Protocol == lb.UDP && len(r.Internal) > 0 && !before[r.ID] {
			for _, f := range r.Frontends {
				woken = append(woken, netip.AddrPortFrom(f.Addr, f.Port))
			}
		}
	}
	return gone, woken
}

// Drained waits until none of the addresses gets new connections for being
// ready: the kernel's rules on this node already send them elsewhere, or
// nowhere else to go. It returns ctx's error if that comes first. It is safe
// for concurrent use.
func (p *Proxy) Drained(ctx context.Context, addrs ...netip.Addr) error {
	for {
		p.mu.Lock()
		busy := slices.ContainsFunc(addrs, func(a netip.Addr) bool { return p.ready[a] > 0 })
		moved := p.moved
		p.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}
