// Package metricsapi measures what nodes and pods use: requests for
// metrics.k8s.io go in, kubelets are asked, measures come out. Nobody asks,
// nothing is measured.
package metricsapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
)

const (
	// fresh is for how long a measure is given out again.
	fresh = 10 * time.Second
	// stale is how far back a reading may lie for a rate to start from it;
	// one that lies farther says nothing of what is used now.
	stale = 2 * time.Minute
	// apart is how far two readings lie from each other, if there was none to
	// start from.
	apart = time.Second
	// atOnce is how many kubelets are asked at the same time.
	atOnce = 32
)

// Config is what the measures are made of.
type Config struct {
	// Door reads nodes and pods.
	Door client.Interface
	// Kubelets is the client that kubelets know, and Address where a node's
	// listens ("host:port").
	Kubelets *http.Client
	Address  func(*corev1.Node) (string, error)
	Clock    clock.Clock // nil is the real one
	Log      *slog.Logger
}

// Source measures. It is safe for concurrent use.
type Source struct {
	cfg Config

	mu    sync.Mutex
	nodes map[string]*meter
}

// New makes a source that has asked nobody yet.
func New(cfg Config) *Source {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{cfg: cfg, nodes: map[string]*meter{}}
}

// Nodes measures the nodes that sel selects (nil: all), or the one named, by
// name. A node whose kubelet cannot be asked is left out.
func (s *Source) Nodes(ctx context.Context, name string, sel labels.Selector) (map[string]*metricsv1beta1.NodeMetrics, error) {
	opts := client.Options{ResourceVersion: "0", LabelSelector: sel}
	if name != "" {
		opts.FieldSelector = fields.OneTermEqualSelector("metadata.name", name)
	}
	nodes, _, err := client.Nodes.In(s.cfg.Door, "").List(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	if name == "" && (sel == nil || sel.Empty()) {
		s.keep(nodes)
	}
	out := map[string]*metricsv1beta1.NodeMetrics{}
	measures := s.measure(ctx, nodes)
	for _, n := range nodes {
		m := measures[n.Name]
		if m == nil {
			continue
		}
		cores, bytes, ok := usage(m.before.node, m.now.node)
		if !ok {
			continue
		}
		out[n.Name] = &metricsv1beta1.NodeMetrics{
			ObjectMeta: s.meta(n), Usage: quantities(cores, bytes),
			Timestamp: metav1.NewTime(m.now.node.at), Window: window(m.before.node, m.now.node),
		}
	}
	return out, nil
}

// Pods measures the running pods of a namespace ("" is all) that sel selects
// (nil: all), or the one named, by "namespace/name". Those of nodes whose
// kubelets cannot be asked are left out, and those that have just started.
func (s *Source) Pods(ctx context.Context, namespace, name string, sel labels.Selector) (map[string]*metricsv1beta1.PodMetrics, error) {
	opts := client.Options{ResourceVersion: "0", LabelSelector: sel}
	if name != "" {
		opts.FieldSelector = fields.OneTermEqualSelector("metadata.name", name)
	}
	pods, _, err := client.Pods.In(s.cfg.Door, namespace).List(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	on := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" && p.Status.Phase == corev1.PodRunning {
			on[p.Spec.NodeName] = true
		}
	}
	var nodes []*corev1.Node
	for name := range on {
		n, err := client.Nodes.In(s.cfg.Door, "").Get(ctx, name, client.WithOptions(client.Options{ResourceVersion: "0"}))
		if err != nil {
			s.cfg.Log.Debug("no metrics of a node's pods", "node", name, "error", err)
			continue
		}
		nodes = append(nodes, n)
	}
	measures := s.measure(ctx, nodes)
	out := map[string]*metricsv1beta1.PodMetrics{}
	for _, p := range pods {
		if m := measures[p.Spec.NodeName]; m != nil {
			if pm := m.pod(p); pm != nil {
				pm.ObjectMeta = s.meta(p)
				out[p.Namespace+"/"+p.Name] = pm
			}
		}
	}
	return out, nil
}

// meta is that of a measure of o.
func (s *Source) meta(o metav1.Object) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: o.GetName(), Namespace: o.GetNamespace(), CreationTimestamp: metav1.NewTime(s.cfg.Clock.Now())}
	if l := o.GetLabels(); len(l) > 0 {
		m.Labels = make(map[string]string, len(l))
		for k, v := range l {
			m.Labels[k] = v
		}
	}
	return m
}

func quantities(cores, bytes float64) corev1.ResourceList {
	cpu := resource.NewScaledQuantity(int64(cores*1e9), resource.Nano)
	return corev1.ResourceList{corev1.ResourceCPU: *cpu, corev1.ResourceMemory: *resource.NewQuantity(int64(bytes), resource.BinarySI)}
}

func window(before, now counter) metav1.Duration {
	return metav1.Duration{Duration: now.at.Sub(before.at).Round(time.Millisecond)}
}

// keep forgets the nodes that are gone.
func (s *Source) keep(nodes []*corev1.Node) {
	there := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		there[n.Name] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.nodes {
		if !there[name] {
			delete(s.nodes, name)
		}
	}
}

// measure asks the nodes, many at once, and returns what it learnt, by name.
func (s *Source) measure(ctx context.Context, nodes []*corev1.Node) map[string]*measure {
	var mu sync.Mutex
	var wg sync.WaitGroup
	turns := make(chan struct{}, atOnce)
	out := make(map[string]*measure, len(nodes))
	for _, n := range nodes {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			m, err := s.meter(n.Name).measure(ctx, func() (*reading, error) {
				address, err := s.cfg.Address(n)
				if err != nil {
					return nil, err
				}
				return kubelet(ctx, s.cfg.Kubelets, address, s.cfg.Clock.Now)
			})
			if err != nil {
				s.cfg.Log.Debug("no metrics of a node", "node", n.Name, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[n.Name] = m
		})
	}
	wg.Wait()
	return out
}

func (s *Source) meter(node string) *meter {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.nodes[node]
	if m == nil {
		m = &meter{turn: make(chan struct{}, 1), clock: s.cfg.Clock}
		s.nodes[node] = m
	}
	return m
}
