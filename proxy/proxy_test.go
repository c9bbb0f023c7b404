package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/datapath/lb"
)

// kernel is a table that tells the test about every write.
type kernel struct {
	mu     sync.Mutex
	fake   lb.Fake
	resets int
	wrote  chan struct{}
}

func newKernel() *kernel { return &kernel{wrote: make(chan struct{}, 1000)} }

func (k *kernel) Reset(rules []lb.Rule) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.resets++
	defer func() { k.wrote <- struct{}{} }()
	return k.fake.Reset(rules)
}

func (k *kernel) Apply(set []lb.Rule, remove []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer func() { k.wrote <- struct{}{} }()
	return k.fake.Apply(set, remove)
}

func (k *kernel) Purge() error { return nil }

// until waits until the kernel holds what cond wants.
func (k *kernel) until(t *testing.T, what string, cond func(rules map[string]lb.Rule) bool) {
	t.Helper()
	for {
		k.mu.Lock()
		ok := cond(k.fake.Rules)
		k.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-k.wrote:
		case <-t.Context().Done():
			t.Fatalf("the kernel never held %s", what)
		}
	}
}

func backendsOf(name string) func(rules map[string]lb.Rule) []netip.AddrPort {
	return func(rules map[string]lb.Rule) []netip.AddrPort {
		for _, r := range rules {
			if r.Name == name {
				return r.Internal
			}
		}
		return nil
	}
}

func endpointSlice(ready map[string]bool) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for ip, ok := range ready {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ok, Serving: ptr.To(true), Terminating: ptr.To(!ok)},
		})
	}
	return s
}

func run(t *testing.T, door *doortest.Door, k *kernel) *Proxy {
	t.Helper()
	informers := client.NewInformers(door)
	p, err := New(Config{Informers: informers, NodeName: "n1", V4: k, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	informers.Start(ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func TestRulesFollowServicesAndEndpoints(t *testing.T) {
	for _, order := range []string{"service first", "endpoints first"} {
		t.Run(order, func(t *testing.T) {
			door, k := &doortest.Door{}, newKernel()
			run(t, door, k)
			put := []func(){
				func() { doortest.Put(door, client.Services, service(nil)) },
				func() { doortest.Put(door, client.EndpointSlices, endpointSlice(map[string]bool{"10.42.0.5": true})) },
			}
			if order == "endpoints first" {
				put[0], put[1] = put[1], put[0]
			}
			put[0]()
			put[1]()
			k.until(t, "the backend", func(r map[string]lb.Rule) bool { return len(backendsOf("default/web:http")(r)) == 1 })
			doortest.Put(door, client.EndpointSlices, endpointSlice(map[string]bool{"10.42.0.5": true, "10.42.0.6": true}))
			k.until(t, "both backends", func(r map[string]lb.Rule) bool { return len(backendsOf("default/web:http")(r)) == 2 })
			if err := client.Services.In(door, "default").Delete(t.Context(), "web", client.Options{}); err != nil {
				t.Fatal(err)
			}
			k.until(t, "no rule", func(r map[string]lb.Rule) bool { return len(r) == 0 })
			if k.resets != 1 {
				t.Errorf("everything was written %d times, want once at the start", k.resets)
			}
		})
	}
}

func TestKernelErrorIsAnsweredByWritingAnew(t *testing.T) {
	door, k := &doortest.Door{}, newKernel()
	run(t, door, k)
	k.until(t, "anything", func(r map[string]lb.Rule) bool { return r != nil })
	k.mu.Lock()
	k.fake.Err = errors.New("kernel says no")
	k.mu.Unlock()
	doortest.Put(door, client.Services, service(nil))
	k.until(t, "the rule", func(r map[string]lb.Rule) bool { return len(r) == 1 })
	if k.resets < 2 {
		t.Error("after an error the rules were not written anew")
	}
}

func TestDrained(t *testing.T) {
	door, k := &doortest.Door{}, newKernel()
	p := run(t, door, k)
	ip := netip.MustParseAddr("10.42.0.5")
	if err := p.Drained(t.Context(), ip); err != nil {
		t.Fatalf("an address no Service knows: %v", err)
	}
	doortest.Put(door, client.Services, service(nil))
	doortest.Put(door, client.EndpointSlices, endpointSlice(map[string]bool{"10.42.0.5": true}))
	k.until(t, "the backend", func(r map[string]lb.Rule) bool { return len(backendsOf("default/web:http")(r)) == 1 })
	drained := make(chan error, 1)
	go func() { drained <- p.Drained(t.Context(), ip) }()
	// The only endpoint goes on serving while it terminates, but nothing new
	// waits for it any more.
	doortest.Put(door, client.EndpointSlices, endpointSlice(map[string]bool{"10.42.0.5": false}))
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(backendsOf("default/web:http")(k.fake.Rules)) != 1 {
		t.Error("the last, terminating endpoint was taken out")
	}
}
