package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/scheduler/devices"
)

// claimDoor is an API that has nothing but claims.
type claimDoor struct {
	mu     sync.Mutex
	claims map[string]*resourcev1.ResourceClaim
}

func (d *claimDoor) Do(_ context.Context, r *client.Request) (*client.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	have := d.claims[r.Name]
	if r.Resource.Resource != "resourceclaims" || have == nil {
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	}
	if r.Verb == client.Update {
		d.claims[r.Name] = r.Object.(*resourcev1.ResourceClaim)
	}
	return &client.Result{Object: d.claims[r.Name]}, nil
}

func (*claimDoor) Watch(context.Context, *client.Request) (watch.Interface, error) {
	return nil, errors.New("nobody watches")
}

// set puts a claim in place of another; nil is its end.
func (d *claimDoor) set(name string, c *resourcev1.ResourceClaim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c == nil {
		delete(d.claims, name)
		return
	}
	d.claims[name] = c
}

func (d *claimDoor) get(name string) *resourcev1.ResourceClaim {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.claims[name].DeepCopy()
}

// slow is an allocated claim that users use, with a device that must be ready
// before it can be.
func slow(name string, users ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Finalizers: []string{resourcev1.Finalizer}}}
	now := metav1.Now()
	c.Status.Allocation = &resourcev1.AllocationResult{AllocationTimestamp: &now, Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Driver: "d", Pool: "p", Device: name, BindingConditions: []string{"ready"}, BindingFailureConditions: []string{"broken"}},
	}}}
	for _, u := range users {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: u, UID: types.UID(u)})
	}
	return c
}

// told is the claim with a condition of its device.
func told(c *resourcev1.ResourceClaim, condition string) *resourcev1.ResourceClaim {
	c = c.DeepCopy()
	c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: c.Name, Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Message: "why"}}}}
	return c
}

// TestWaitForDevices: a pod waits until all devices are ready, and no longer
// than that can come true.
func TestWaitForDevices(t *testing.T) {
	for _, c := range []struct {
		name string
		then func(*deviceClaims, *claimDoor) // a minute after the wait began
		err  string
		bad  bool // other devices are to be tried
		at   time.Duration
	}{
		{"ready", func(_ *deviceClaims, door *claimDoor) { door.set("c", told(door.get("c"), "ready")) }, "", false, time.Minute},
		{"broken", func(_ *deviceClaims, door *claimDoor) { door.set("c", told(door.get("c"), "broken")) }, "claim c binding failed: broken: why", true, time.Minute},
		{"nothing", func(*deviceClaims, *claimDoor) {}, "claim c: device binding timed out", true, bindingWait},
		{"nobody knows since when", func(_ *deviceClaims, door *claimDoor) {
			c := door.get("c")
			c.Status.Allocation.AllocationTimestamp = nil
			door.set("c", c)
		}, "claim c: device binding timed out", true, bindingWait},
		{"pod gone", func(d *deviceClaims, _ *claimDoor) { d.forget("p") }, "the pod is gone", false, time.Minute},
		{"deallocated", func(_ *deviceClaims, door *claimDoor) {
			c := door.get("c")
			c.Status = resourcev1.ResourceClaimStatus{}
			door.set("c", c)
		}, "claim c got deallocated in the meantime", false, time.Minute},
		{"another of its name", func(_ *deviceClaims, door *claimDoor) {
			c := told(door.get("c"), "ready")
			c.UID = "other"
			door.set("c", c)
		}, "claim c got deallocated in the meantime", false, time.Minute},
		{"claim gone", func(_ *deviceClaims, door *claimDoor) { door.set("c", nil) }, `resourceclaims.resource.k8s.io "c" not found`, false, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				door := &claimDoor{claims: map[string]*resourcev1.ResourceClaim{}}
				d := newDeviceClaims(door, time.Now, nil)
				// What has long been ready leaves the other its time.
				old := told(slow("old", "p", "q"), "ready")
				old.Status.Allocation.AllocationTimestamp.Time = time.Now().Add(-time.Hour)
				claim := slow("c", "p")
				door.set("old", old)
				door.set("c", claim)
				begin := time.Now()
				err := make(chan error, 1)
				go func() {
					err <- d.ready(t.Context(), NewPod(pod("p")), &claimWrites{reserved: []*resourcev1.ResourceClaim{claim, old}})
				}()
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(err) > 0 {
					t.Fatalf("no wait: %v", <-err)
				}
				c.then(d, door)
				d.wake()
				got := <-err
				var bad unbindable
				switch {
				case (got == nil) != (c.err == "") || got != nil && got.Error() != c.err:
					t.Errorf("got %v, want %q", got, c.err)
				case errors.As(got, &bad) != c.bad:
					t.Errorf("other devices are to be tried after %v: %v", got, !c.bad)
				}
				if took := time.Since(begin).Round(time.Minute); took != c.at {
					t.Errorf("took %v, want %v", took, c.at)
				}
				if len(d.waiting) > 0 {
					t.Error("the wait is still on record")
				}
			})
		})
	}
}

// TestUndo: a pod that cannot be bound leaves its claims. Devices that turned
// out unusable go with it, unless others use them.
func TestUndo(t *testing.T) {
	for _, c := range []struct {
		name  string
		why   error
		users []string
		keeps bool
	}{
		{"unusable", unbindable{errors.New("broken")}, []string{"p"}, false},
		{"unusable, used by another", unbindable{errors.New("broken")}, []string{"p", "q"}, true},
		{"not bound", errors.New("node gone"), []string{"p"}, true},
	} {
		door := &claimDoor{claims: map[string]*resourcev1.ResourceClaim{"c": slow("c", c.users...)}}
		d := newDeviceClaims(door, time.Now, nil)
		if err := d.undo(t.Context(), NewPod(pod("p")), &claimWrites{reserved: []*resourcev1.ResourceClaim{door.get("c"), slow("gone", "p")}}, c.why); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		got := door.get("c").Status
		if (got.Allocation != nil) != c.keeps || len(got.ReservedFor) != len(c.users)-1 {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestBlockedClaim: what was allocated where the pod cannot run goes back if
// nobody uses it, and then the pod fits.
func TestBlockedClaim(t *testing.T) {
	for _, c := range []struct {
		name  string
		users []string
		text  string
		fits  bool
	}{
		{"unused", nil, "deallocation of ResourceClaim completed", true},
		{"its own", []string{"p"}, "deallocation of ResourceClaim completed", true},
		{"used by another", []string{"q"}, "still not schedulable", false},
		{"shared", []string{"p", "q"}, "still not schedulable", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, profile, s := deviceWorld(t, "true", map[string]string{"a": "large"})
			claim := d.ledger.Claim("default", "c").DeepCopy()
			claim.Status = slow("c", c.users...).Status
			claim.Status.Allocation.NodeSelector = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{"drained"}},
			}}}}
			d.ledger.SetClaim(claim)
			door := &claimDoor{claims: map[string]*resourcev1.ResourceClaim{"c": claim}}
			d.door = door
			p, classes := NewPod(pod("p", claiming)), newClasses(8)
			if n, _ := classes.of(p, profile, s).place(p, profile, s, false); n != nil {
				t.Fatal("placed without its devices")
			}
			free, text := d.blocked(p)
			if (free != nil) != c.fits || text != c.text {
				t.Fatalf("to be freed: %v, %q", free != nil, text)
			}
			// Who came to use it since the choice keeps it from being freed.
			if err := d.leave(t.Context(), p, claim, true); err != nil {
				t.Fatal(err)
			}
			if got := door.get("c"); (got.Status.Allocation == nil) != c.fits {
				t.Errorf("%+v", got.Status)
			}
			d.ledger.SetClaim(door.get("c"))
			s.storage++
			if n, why := classes.of(p, profile, s).place(p, profile, s, false); (n != nil) != c.fits {
				t.Errorf("placed on %v (%v)", n, why)
			}
		})
	}
}

// TestClaimGoesMeanwhile: a pod whose claim goes while it is bound stays to be
// scheduled; only one that is gone itself does not.
func TestClaimGoesMeanwhile(t *testing.T) {
	d, profile, snap := deviceWorld(t, "true", map[string]string{"a": "large"})
	d.door = &claimDoor{claims: map[string]*resourcev1.ResourceClaim{}}
	real := clock.RealClock{}
	s := &Scheduler{
		cfg: Config{Client: d.door, Recorder: record.NewFakeRecorder(9)}, log: slog.New(slog.DiscardHandler), clock: real, queue: NewQueue(real),
		binding: make(chan struct{}, 1), storage: &volumeBinder{}, devices: d, snapshot: snap, nominated: map[types.UID]string{},
	}
	p := NewPod(pod("p", claiming))
	s.queue.Add(p)
	s.queue.Next(t.Context())
	n, _ := newClasses(8).of(p, profile, snap).place(p, profile, snap, false)
	h, err := s.hold(p, n)
	if err != nil || h.claims == nil {
		t.Fatalf("%+v, %v", h, err)
	}
	s.bindHeld(t.Context(), p, n.Name, h)
	if s.queue.Len() != 1 {
		t.Error("the pod was forgotten")
	}
	s.bindHeld(t.Context(), p, n.Name, held{claims: &claimWrites{plan: &devices.Plan{}}}) // the binding finds no pod
	if s.queue.Len() != 0 {
		t.Error("a pod that is gone is still to be scheduled")
	}
}
