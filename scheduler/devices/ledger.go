// Package devices is the scheduler's dynamic resource allocation: resource
// claims, device classes and resource slices flow in as they are seen, and
// which devices of which node a pod's claims get flows out. It decides and
// keeps count; it writes nothing (KEP-4381 and those that build on it).
package devices

import (
	"context"
	"strconv"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

// features are those that 1.36 has by default.
var features = structured.Features{
	AdminAccess: true, ConsumableCapacity: true, DeviceBindingAndStatus: true,
	DeviceTaints: true, PartitionableDevices: true, PrioritizedList: true,
}

// selectors is how many compiled CEL selectors are kept.
const selectors = 256

// Ledger knows the claims, classes and slices of the cluster, which devices
// are taken, and those that were promised to pods whose claims are not
// written yet: two pods never get one device. What it is given and hands out
// is shared and read only. It is not safe for concurrent use: the scheduler
// holds its lock around it.
type Ledger struct {
	// claims are the newest versions known, seen or returned by a write.
	claims map[types.NamespacedName]*resourcev1.ResourceClaim
	// special are the claims made for pods' extended resources, by pod.
	special map[types.UID]types.NamespacedName
	// promised are allocations on their way into their claims.
	promised map[types.UID]*resourcev1.AllocationResult
	// counted is, for each claim, the allocation that is in taken.
	counted map[types.UID]*resourcev1.AllocationResult
	taken   structured.AllocatedState
	// holders counts the claims that have a device for themselves: more than
	// one is a fault of somebody else's, but it must not free the device.
	holders map[structured.DeviceID]int
	slices  map[string]*resourcev1.ResourceSlice
	classes classes

	cel       *cel.Cache           // made for the first claim to be allocated
	allocator structured.Allocator // nil after every change of what it was made of
	version   uint64               // changes with everything that allocation depends on
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger {
	return &Ledger{
		claims: map[types.NamespacedName]*resourcev1.ResourceClaim{}, special: map[types.UID]types.NamespacedName{},
		promised: map[types.UID]*resourcev1.AllocationResult{}, counted: map[types.UID]*resourcev1.AllocationResult{},
		taken: structured.AllocatedState{
			AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
			AggregatedCapacity: structured.NewConsumedCapacityCollection(),
		},
		holders: map[structured.DeviceID]int{}, slices: map[string]*resourcev1.ResourceSlice{}, classes: newClasses(),
	}
}

func (l *Ledger) changed() {
	l.version++
	l.allocator = nil
}

// Version changes with everything that the allocation of claims depends on.
func (l *Ledger) Version() uint64 { return l.version }

// SetClaim takes in a claim as a watch or the answer to a write has it. What
// is older than what is known is ignored; false says so.
func (l *Ledger) SetClaim(c *resourcev1.ResourceClaim) bool {
	key := keyOf(c)
	old := l.claims[key]
	if old != nil && revision(old) > revision(c) {
		return false
	}
	if old != nil && old.UID != c.UID {
		l.drop(old)
	}
	l.claims[key] = c
	if c.Status.Allocation != nil {
		delete(l.promised, c.UID)
	}
	if pod, ok := madeFor(c); ok {
		l.special[pod] = key
		if c.Status.Allocation != nil {
			l.Withdraw(pod)
		}
	}
	l.count(c)
	l.changed()
	return true
}

// RemoveClaim forgets a claim that was deleted.
func (l *Ledger) RemoveClaim(c *resourcev1.ResourceClaim) {
	if have := l.claims[keyOf(c)]; have != nil && have.UID == c.UID {
		l.drop(have)
		delete(l.claims, keyOf(c))
		l.changed()
	}
}

func (l *Ledger) drop(c *resourcev1.ResourceClaim) {
	delete(l.promised, c.UID)
	l.recount(c.UID, nil)
	if pod, ok := madeFor(c); ok && l.special[pod] == keyOf(c) {
		delete(l.special, pod)
	}
}

// Claim returns the newest version known of a claim; nil is none.
func (l *Ledger) Claim(namespace, name string) *resourcev1.ResourceClaim {
	return l.claims[types.NamespacedName{Namespace: namespace, Name: name}]
}

// Promise keeps devices for a claim until its allocation is seen or Withdraw
// is called. A claim that is yet to be made for a pod's extended resources goes
// by the pod's UID.
func (l *Ledger) Promise(claim types.UID, a *resourcev1.AllocationResult) {
	l.promised[claim] = a
	l.recount(claim, a)
	l.changed()
}

// Withdraw ends a promise that was not kept.
func (l *Ledger) Withdraw(claim types.UID) {
	if l.promised[claim] == nil {
		return
	}
	delete(l.promised, claim)
	l.recount(claim, nil)
	l.changed()
}

// count puts the claim's allocation, or the one promised to it, into taken.
func (l *Ledger) count(c *resourcev1.ResourceClaim) {
	a := c.Status.Allocation
	if a == nil {
		a = l.promised[c.UID]
	}
	l.recount(c.UID, a)
}

func (l *Ledger) recount(claim types.UID, a *resourcev1.AllocationResult) {
	old := l.counted[claim]
	if old == a {
		return
	}
	l.add(old, -1)
	l.add(a, 1)
	if a == nil {
		delete(l.counted, claim)
		return
	}
	l.counted[claim] = a
}

// add enters an allocation (sign 1) or strikes it out (-1). Access for
// administrators takes nothing from anybody.
func (l *Ledger) add(a *resourcev1.AllocationResult, sign int) {
	if a == nil {
		return
	}
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		if r.AdminAccess != nil && *r.AdminAccess {
			continue
		}
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID != nil {
			share := structured.MakeSharedDeviceID(id, r.ShareID)
			part := structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity)
			if sign > 0 {
				l.taken.AllocatedSharedDeviceIDs.Insert(share)
				l.taken.AggregatedCapacity.Insert(part)
			} else {
				l.taken.AllocatedSharedDeviceIDs.Delete(share)
				l.taken.AggregatedCapacity.Remove(part)
			}
			continue
		}
		if l.holders[id] += sign; l.holders[id] > 0 {
			l.taken.AllocatedDevices.Insert(id)
		} else {
			delete(l.holders, id)
			l.taken.AllocatedDevices.Delete(id)
		}
	}
}

// SetSlice takes in what a driver offers.
func (l *Ledger) SetSlice(s *resourcev1.ResourceSlice) {
	l.slices[s.Name] = s
	l.changed()
}

// RemoveSlice forgets a slice.
func (l *Ledger) RemoveSlice(name string) {
	delete(l.slices, name)
	l.changed()
}

// prepared returns the allocator for the state as it is now.
func (l *Ledger) prepared(ctx context.Context) (structured.Allocator, error) {
	if l.allocator != nil {
		return l.allocator, nil
	}
	if l.cel == nil {
		l.cel = cel.NewCache(selectors, cel.Features{EnableConsumableCapacity: true})
	}
	all := make([]*resourcev1.ResourceSlice, 0, len(l.slices))
	for _, s := range l.slices {
		all = append(all, s)
	}
	a, err := structured.NewAllocator(ctx, features, l.taken, &l.classes, all, l.cel)
	if err != nil {
		return nil, err
	}
	l.allocator = a
	return a, nil
}

func keyOf(c *resourcev1.ResourceClaim) types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
}

// revision orders versions of objects (KEP-5504: resource versions compare as
// numbers).
func revision(o metav1.Object) uint64 {
	n, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	return n
}
