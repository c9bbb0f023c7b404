package dra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

// claims is an API server with claims, each of one driver, reserved for pods.
type claims map[string]*resourcev1.ResourceClaim

func (c claims) Do(_ context.Context, r *client.Request) (*client.Result, error) {
	if o := c[r.Name]; o != nil && r.Verb == client.Get {
		return &client.Result{Object: o}, nil
	}
	return nil, fmt.Errorf("unexpected %s of %s", r.Verb, r.Name)
}

func (claims) Watch(context.Context, *client.Request) (watch.Interface, error) { return nil, nil }

// add makes a claim for pods' UIDs.
func (c claims) add(name, driver string, pods ...string) {
	o := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", UID: types.UID(name)}}
	o.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Driver: driver}}}}
	for _, p := range pods {
		o.Status.ReservedFor = append(o.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", UID: types.UID(p)})
	}
	c[name] = o
}

func using(uid string, names ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, Namespace: "n", UID: types.UID(uid)}}
	for _, n := range names {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: n, ResourceClaimName: ptr.To(n)})
	}
	return p
}

// caller is a driver as the manager calls it; one that hangs answers nothing.
type caller struct {
	hangs bool

	mu       sync.Mutex
	prepared []string
	calls    int
}

func (c *caller) NodePrepareResources(ctx context.Context, r *drav1.NodePrepareResourcesRequest, _ ...grpc.CallOption) (*drav1.NodePrepareResourcesResponse, error) {
	if c.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	out := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	for _, claim := range r.Claims {
		c.prepared = append(c.prepared, claim.Name)
		out.Claims[claim.Uid] = &drav1.NodePrepareResourceResponse{Devices: []*drav1.Device{{PoolName: "p", DeviceName: "d"}}}
	}
	return out, nil
}

func (c *caller) NodeUnprepareResources(ctx context.Context, r *drav1.NodeUnprepareResourcesRequest, _ ...grpc.CallOption) (*drav1.NodeUnprepareResourcesResponse, error) {
	if c.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, claim := range r.Claims {
		c.prepared = slices.DeleteFunc(c.prepared, func(n string) bool { return n == claim.Name })
		out.Claims[claim.Uid] = &drav1.NodeUnprepareResourceResponse{}
	}
	return out, nil
}

// A driver that hangs keeps only its own claims: pods with those of others get
// them and give them back, also when they share them with a pod that waits.
func TestHungDriver(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all := claims{}
		all.add("shared", "good", "both", "other")
		all.add("stuck", "bad", "both", "waits")
		all.add("own", "good", "third")
		m, err := New(Config{Client: all, Dir: dir, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
		if err != nil {
			t.Fatal(err)
		}
		good, bad := &caller{}, &caller{hangs: true}
		m.drivers["good"], m.drivers["bad"] = &driver{client: good}, &driver{client: bad}
		start := time.Now()
		results := make(chan error, 2)
		go func() { results <- m.Prepare(t.Context(), using("both", "shared", "stuck")) }()
		synctest.Wait()
		for _, p := range []*corev1.Pod{using("other", "shared"), using("third", "own")} {
			if err := m.Prepare(t.Context(), p); err != nil {
				t.Errorf("pod %s: %v", p.Name, err)
			}
		}
		if err := m.Unprepare(t.Context(), "third"); err != nil {
			t.Error(err)
		}
		if got := good.prepared; !slices.Equal(got, []string{"shared"}) || good.calls != 2 {
			t.Errorf("%v is prepared, by %d calls", got, good.calls)
		}
		if time.Since(start) != 0 {
			t.Errorf("the others waited for %v", time.Since(start))
		}
		// One claim is worked on by one at a time.
		go func() { results <- m.Prepare(t.Context(), using("waits", "stuck")) }()
		for i := range 2 {
			if err := <-results; !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Duration(i+1)*callTimeout {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
		// What hangs in the end keeps nothing else either.
		if err := m.Unprepare(t.Context(), "both"); err != nil {
			t.Error(err)
		}
		start = time.Now()
		go func() { results <- m.Unprepare(t.Context(), "waits") }()
		synctest.Wait()
		if err := m.Unprepare(t.Context(), "other"); err != nil || len(good.prepared) != 0 || time.Since(start) != 0 {
			t.Errorf("%v after %v, %v is prepared", err, time.Since(start), good.prepared)
		}
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		bad.hangs = false
		if err := m.Unprepare(t.Context(), "waits"); err != nil || len(m.Pods()) != 0 {
			t.Errorf("%v, pods %v", err, m.Pods())
		}
	})
}

// Who gives up waiting for a claim has taken none.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b busy
		if err := b.take(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.take(ctx, "b", "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := b.take(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		taken := make(chan error)
		go func() { taken <- b.take(t.Context(), "a", "b") }()
		for _, uid := range []types.UID{"a", "b"} {
			synctest.Wait()
			select {
			case err := <-taken:
				t.Fatal("taken twice", err)
			default:
			}
			b.free(uid)
		}
		if err := <-taken; err != nil || len(b.claims) != 2 {
			t.Error(err, b.claims)
		}
	})
}
