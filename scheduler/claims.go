package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/scheduler/devices"
)

// deviceClaims is dynamic resource allocation: it refuses nodes on which a
// pod's resource claims cannot be used or given devices, and holds, writes and
// takes back what they are given (KEP-4381).
type deviceClaims struct {
	door client.Interface
	now  func() time.Time

	// What follows is guarded by the scheduler's lock.
	ledger *devices.Ledger
	last   *devices.Attempt // of the pod that is being placed

	mu      sync.Mutex
	changed chan struct{} // closed at the next change of a claim
	waiting map[types.UID]context.CancelCauseFunc
	counts  *Counts
}

func newDeviceClaims(door client.Interface, now func() time.Time, counts *Counts) *deviceClaims {
	return &deviceClaims{
		door: door, now: now, counts: counts, ledger: devices.NewLedger(),
		changed: make(chan struct{}), waiting: map[types.UID]context.CancelCauseFunc{},
	}
}

const dynamicResources = "DynamicResources"

func (*deviceClaims) Name() string { return dynamicResources }
func (*deviceClaims) Wakes() Event {
	return DevicesChanged | NodeAdded | NodeLabels | NodeAllocatable | PodUpdated
}

// attempt prepares a pod's claims, or takes what was prepared for it just
// before; nil for a pod that needs no devices. The scheduler's lock is held.
func (d *deviceClaims) attempt(p *Pod) *devices.Attempt {
	if len(p.Spec.ResourceClaims) == 0 && len(p.request.Scalar) == 0 {
		return nil
	}
	if !d.last.Current(p.Pod) {
		d.last = d.ledger.Attempt(p.Pod, p.request.Scalar)
	}
	return d.last
}

// Prepare implements Relation.
func (d *deviceClaims) Prepare(p *Pod, _ *Snapshot) *Related {
	a := d.attempt(p)
	if a == nil {
		return nil
	}
	if a.Refusal != "" {
		reason := no(&Reason{Plugin: dynamicResources, Text: a.Refusal, Unresolvable: true, Whole: true})
		return &Related{Check: func(*Node) []*Reason { return reason }}
	}
	out := &Related{Weight: 2, Check: func(n *Node) []*Reason {
		o := a.On(n.Node)
		if o.Refusal == "" {
			return nil
		}
		return no(&Reason{Plugin: dynamicResources, Text: o.Refusal, Whole: o.Fault, Fault: o.Fault})
	}}
	if a.Ranked {
		out.Rate = func(n *Node) int64 { return a.On(n.Node).Rank }
		out.Prefer = func(raw, _, highest int64) int64 {
			if highest <= 0 {
				return 0
			}
			return raw * MaxScore / highest
		}
	}
	return out
}

// missing says that a pod need not be tried before a claim of it is there. The
// scheduler's lock is held.
func (d *deviceClaims) missing(p *corev1.Pod) bool {
	return len(p.Spec.ResourceClaims) > 0 && d.ledger.Missing(p) != ""
}

// serves implements deviceResources.
func (d *deviceClaims) serves(n *Node, resource corev1.ResourceName) bool {
	return d.ledger.ClassFor(resource) != "" && !devices.ServedBy(n.Node, resource)
}

// withDevices adds the allocation of devices, which needs the claims' state.
func withDevices(p *Profile, d *deviceClaims) *Profile {
	out := *p
	out.Filters = append([]Filter(nil), p.Filters...)
	for i, f := range out.Filters {
		if _, ok := f.(resourcesFit); ok {
			out.Filters[i] = resourcesFit{d}
		}
	}
	out.Relations = append(append([]Relation(nil), p.Relations...), d)
	return &out
}

// watchDevices keeps the ledger and wakes the pods that a change may help.
func (s *Scheduler) watchDevices(informers *client.Informers) ([]cache.DoneChecker, error) {
	claims, err := client.InformerFor(informers, client.ResourceClaims).OnChange(s.resourceClaimChanged)
	if err != nil {
		return nil, fmt.Errorf("watch resource claims: %w", err)
	}
	slices, err := client.InformerFor(informers, client.ResourceSlices).OnChange(s.sliceChanged)
	if err != nil {
		return nil, fmt.Errorf("watch resource slices: %w", err)
	}
	classes, err := client.InformerFor(informers, client.DeviceClasses).OnChange(s.deviceClassChanged)
	if err != nil {
		return nil, fmt.Errorf("watch device classes: %w", err)
	}
	return []cache.DoneChecker{claims.HasSyncedChecker(), slices.HasSyncedChecker(), classes.HasSyncedChecker()}, nil
}

func (s *Scheduler) resourceClaimChanged(c, old *resourcev1.ResourceClaim) {
	s.mu.Lock()
	if c != nil {
		s.devices.ledger.SetClaim(c)
	} else {
		s.devices.ledger.RemoveClaim(old)
	}
	s.mu.Unlock()
	s.devices.wake()
	freed := old != nil && old.Status.Allocation != nil && (c == nil || c.UID != old.UID || c.Status.Allocation == nil)
	if freed {
		s.queue.Happened(DevicesChanged)
		return
	}
	of := c
	if c == nil {
		of = old
	}
	s.queue.HappenedTo(DevicesChanged, func(p *Pod) bool { return p.Namespace == of.Namespace && devices.Names(p.Pod, of.Name) })
}

func (s *Scheduler) sliceChanged(slice, old *resourcev1.ResourceSlice) {
	if slice != nil && old != nil && slice.UID == old.UID && slice.Generation == old.Generation {
		return
	}
	s.mu.Lock()
	if slice != nil {
		s.devices.ledger.SetSlice(slice)
	} else {
		s.devices.ledger.RemoveSlice(old.Name)
	}
	s.mu.Unlock()
	s.queue.Happened(DevicesChanged)
}

// deviceClassChanged wakes the pods whose claims name the class, and those
// that ask for the resource that it serves or served.
func (s *Scheduler) deviceClassChanged(c, old *resourcev1.DeviceClass) {
	resources := map[corev1.ResourceName]bool{}
	name := ""
	for _, class := range []*resourcev1.DeviceClass{c, old} {
		if class == nil {
			continue
		}
		name = class.Name
		resources[corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix+name)] = true
		if r := class.Spec.ExtendedResourceName; r != nil {
			resources[corev1.ResourceName(*r)] = true
		}
	}
	s.mu.Lock()
	if c != nil {
		s.devices.ledger.SetClass(c)
	} else {
		s.devices.ledger.RemoveClass(name)
	}
	s.snapshot.deviceClasses++
	claims := s.devices.ledger.ClaimsOf(name)
	s.mu.Unlock()
	s.queue.HappenedTo(DevicesChanged, func(p *Pod) bool {
		for r := range p.request.Scalar {
			if resources[r] {
				return true
			}
		}
		for _, claim := range claims {
			if p.Namespace == claim.Namespace && devices.Names(p.Pod, claim.Name) {
				return true
			}
		}
		return false
	})
}

// wake lets those that wait for claims look again.
func (d *deviceClaims) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.changed)
	d.changed = make(chan struct{})
}
