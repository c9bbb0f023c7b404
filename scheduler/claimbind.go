package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/scheduler/devices"
)

// bindingWait is how long devices may take to get ready for a node, as
// upstream's bindingTimeout is (KEP-5007).
const bindingWait = 10 * time.Minute

// claimWrites are the claims that a pod gets before it is bound, and how far
// their writing has come.
type claimWrites struct {
	plan *devices.Plan
	// made is the claim that was made for extended resources.
	made *resourcev1.ResourceClaim
	// reserved are the claims in which the pod has been entered.
	reserved []*resourcev1.ResourceClaim
}

// reserve keeps the devices that the pod was found to get on a node, until
// settle. The scheduler's lock is held, and has been since the pod was placed.
func (d *deviceClaims) reserve(p *Pod, n *Node) (*claimWrites, error) {
	a := d.attempt(p)
	if a == nil {
		return nil, nil
	}
	o := a.On(n.Node)
	switch {
	case a.Refusal != "":
		return nil, errors.New(a.Refusal)
	case o.Refusal != "":
		return nil, errors.New(o.Refusal)
	case len(o.Plan.Claims) == 0:
		return nil, nil // the node has what the pod wants by itself
	}
	for _, c := range o.Plan.Claims {
		if c.Allocation != nil {
			d.ledger.Promise(promisee(p, c), c.Allocation)
		}
	}
	d.counts.planned(o.Plan)
	return &claimWrites{plan: o.Plan}, nil
}

// promisee is under which UID a decision's devices are kept.
func promisee(p *Pod, c devices.Decision) types.UID {
	if c.Claim.UID == "" {
		return p.UID
	}
	return c.Claim.UID
}

// settle ends what reserve began: what was not written by then is free. The
// scheduler's lock is held.
func (d *deviceClaims) settle(p *Pod, w *claimWrites) {
	if w == nil {
		return
	}
	for _, c := range w.plan.Claims {
		if c.Allocation != nil {
			d.ledger.Withdraw(promisee(p, c))
		}
	}
}

// forget ends the wait for the devices of a pod that is gone.
func (d *deviceClaims) forget(uid types.UID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cancel := d.waiting[uid]; cancel != nil {
		cancel(errors.New("the pod is gone"))
	}
}

// write enters allocations and the pod into its claims and waits until all
// devices are ready to be used. known is called with each claim that was
// written.
func (d *deviceClaims) write(ctx context.Context, p *Pod, w *claimWrites, known func(*resourcev1.ResourceClaim)) error {
	for _, c := range w.plan.Claims {
		claim := c.Claim
		if c.Special && claim.UID == "" {
			made, err := client.ResourceClaims.In(d.door, p.Namespace).Create(ctx, claim.DeepCopy())
			d.counts.claimMade(err)
			if err != nil {
				return fmt.Errorf("create claim for extended resources %v: %w", claim.GenerateName, err)
			}
			claim, w.made = made, made
		}
		got, err := d.enter(ctx, p, claim, c.Allocation)
		if err != nil {
			return err
		}
		known(got)
		w.reserved = append(w.reserved, got)
		if c.Special {
			if err := d.tell(ctx, p, got.Name, w.plan.Mappings); err != nil {
				return err
			}
		}
	}
	return d.ready(ctx, p, w)
}

// enter gives a claim its allocation, if it is to have one, and enters the pod
// as one who uses it. The finalizer that protects the allocation is there
// before it.
func (d *deviceClaims) enter(ctx context.Context, p *Pod, claim *resourcev1.ResourceClaim, a *resourcev1.AllocationResult) (*resourcev1.ResourceClaim, error) {
	in := client.ResourceClaims.In(d.door, claim.Namespace)
	same := func(c *resourcev1.ResourceClaim) error {
		switch {
		case c.UID != claim.UID:
			return apierrors.NewNotFound(resourcev1.Resource("resourceclaims"), claim.Name)
		case c.DeletionTimestamp != nil:
			return fmt.Errorf("claim %s got deleted in the meantime", claim.Name)
		}
		return nil
	}
	if a != nil && !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
		if _, err := in.Mutate(ctx, claim.Name, "", func(c *resourcev1.ResourceClaim) (bool, error) {
			if slices.Contains(c.Finalizers, resourcev1.Finalizer) {
				return false, same(c)
			}
			c.Finalizers = append(c.Finalizers, resourcev1.Finalizer)
			return true, same(c)
		}); err != nil {
			return nil, fmt.Errorf("add finalizer to claim %s: %w", claim.Name, err)
		}
	}
	got, err := in.Mutate(ctx, claim.Name, "status", func(c *resourcev1.ResourceClaim) (bool, error) {
		if err := same(c); err != nil {
			return false, err
		}
		switch {
		case a != nil && c.Status.Allocation != nil:
			return false, fmt.Errorf("claim %s was allocated elsewhere in the meantime", claim.Name)
		case a != nil:
			c.Status.Allocation = a.DeepCopy()
			now := metav1.NewTime(d.now().Truncate(time.Second))
			c.Status.Allocation.AllocationTimestamp = &now
		case c.Status.Allocation == nil:
			return false, fmt.Errorf("claim %s got deallocated in the meantime", claim.Name)
		}
		if resourceclaim.IsReservedForPod(p.Pod, c, false) {
			return a != nil, nil
		}
		if devices.Full(c) {
			return false, fmt.Errorf("claim %s is reserved for as many pods as it can be", claim.Name)
		}
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reserve claim %s: %w", claim.Name, err)
	}
	return got, nil
}

// tell enters the claim for extended resources into the pod's status, where
// the kubelet looks for it.
func (d *deviceClaims) tell(ctx context.Context, p *Pod, claim string, mappings []corev1.ContainerExtendedResourceRequest) error {
	_, err := client.Pods.In(d.door, p.Namespace).Mutate(ctx, p.Name, "status", func(pod *corev1.Pod) (bool, error) {
		if pod.UID != p.UID {
			return false, apierrors.NewNotFound(corev1.Resource("pods"), p.Name)
		}
		pod.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{RequestMappings: mappings, ResourceClaimName: claim}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("note the claim for extended resources in the pod's status: %w", err)
	}
	return nil
}

// ready waits until all devices of the pod's claims say that they are.
func (d *deviceClaims) ready(ctx context.Context, p *Pod, w *claimWrites) (err error) {
	left := slices.DeleteFunc(slices.Clone(w.reserved), func(c *resourcev1.ResourceClaim) bool { return !conditional(c) })
	if len(left) == 0 {
		return nil
	}
	begin := d.now()
	defer func() { d.counts.waited(d.now().Sub(begin), err) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.mu.Lock()
	d.waiting[p.UID] = cancel
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.waiting, p.UID)
		d.mu.Unlock()
	}()
	for {
		d.mu.Lock()
		changed := d.changed
		d.mu.Unlock()
		until := bindingWait - d.now().Sub(begin) // where nothing tells when devices were chosen
		var waits []*resourcev1.ResourceClaim
		for _, c := range left {
			now, err := client.ResourceClaims.In(d.door, c.Namespace).Get(ctx, c.Name)
			if err != nil {
				return err
			}
			done, err := bound(now, c)
			if err != nil {
				return err
			}
			if done {
				continue
			}
			waits = append(waits, c)
			if t := now.Status.Allocation.AllocationTimestamp; t != nil {
				until = min(until, t.Add(bindingWait).Sub(d.now()))
			}
		}
		if left = waits; len(left) == 0 {
			return nil
		}
		if until <= 0 {
			return unbindable{fmt.Errorf("claim %s: device binding timed out", left[0].Name)}
		}
		timer := time.NewTimer(until)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// unbindable is a failure after which other devices are to be tried.
type unbindable struct{ error }

func conditional(c *resourcev1.ResourceClaim) bool {
	return slices.ContainsFunc(c.Status.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 })
}

// bound says that all devices of a claim, as it is now, are ready for the node;
// the error is that one of them never will be (KEP-5007).
func bound(now, was *resourcev1.ResourceClaim) (bool, error) {
	if now.UID != was.UID || now.Status.Allocation == nil {
		return false, fmt.Errorf("claim %s got deallocated in the meantime", was.Name)
	}
	all := true
	for i := range now.Status.Allocation.Devices.Results {
		r := &now.Status.Allocation.Devices.Results[i]
		if len(r.BindingConditions) == 0 {
			continue
		}
		at := slices.IndexFunc(now.Status.Devices, func(s resourcev1.AllocatedDeviceStatus) bool {
			return s.Driver == r.Driver && s.Pool == r.Pool && s.Device == r.Device &&
				(s.ShareID == nil) == (r.ShareID == nil) && (s.ShareID == nil || *s.ShareID == string(*r.ShareID))
		})
		if at < 0 {
			all = false
			continue
		}
		have := now.Status.Devices[at].Conditions
		for _, t := range r.BindingFailureConditions {
			if c := meta.FindStatusCondition(have, t); c != nil && c.Status == metav1.ConditionTrue {
				return false, unbindable{fmt.Errorf("claim %s binding failed: %s: %s", now.Name, t, c.Message)}
			}
		}
		for _, t := range r.BindingConditions {
			all = all && meta.IsStatusConditionTrue(have, t)
		}
	}
	return all, nil
}

// undo takes the pod out of its claims again. What it alone used goes back if
// it was made for it, or turned out unusable (why); else it stays allocated
// and serves the next attempt.
func (d *deviceClaims) undo(ctx context.Context, p *Pod, w *claimWrites, why error) error {
	var bad unbindable
	useless := errors.As(why, &bad)
	var errs []error
	for _, claim := range w.reserved {
		errs = append(errs, d.leave(ctx, p, claim, useless || w.made != nil && claim.UID == w.made.UID))
	}
	if w.made != nil {
		uid := w.made.UID
		in := client.ResourceClaims.In(d.door, w.made.Namespace)
		errs = append(errs, in.Delete(ctx, w.made.Name, client.Exactly(uid)))
		_, err := in.Mutate(ctx, w.made.Name, "", func(c *resourcev1.ResourceClaim) (bool, error) {
			if c.UID != uid {
				return false, nil
			}
			c.Finalizers = slices.DeleteFunc(c.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
			return true, nil
		})
		errs = append(errs, err)
	}
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return apierrors.IsNotFound(err) })...)
}

// leave strikes the pod out of a claim, and its allocation with it if that is
// free to go and nobody else uses it.
func (d *deviceClaims) leave(ctx context.Context, p *Pod, claim *resourcev1.ResourceClaim, free bool) error {
	_, err := client.ResourceClaims.In(d.door, claim.Namespace).Mutate(ctx, claim.Name, "status", func(c *resourcev1.ResourceClaim) (bool, error) {
		if c.UID != claim.UID {
			return false, nil
		}
		before := len(c.Status.ReservedFor)
		c.Status.ReservedFor = slices.DeleteFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == p.UID })
		change := len(c.Status.ReservedFor) < before
		if free && len(c.Status.ReservedFor) == 0 && c.Status.Allocation != nil {
			c.Status.Allocation, c.Status.Devices = nil, nil
			change = true
		}
		return change, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("claim %s: %w", claim.Name, err)
	}
	return nil
}

// blocked returns a claim of a refused pod that no node can use and that
// nobody else does: without its allocation the pod may fit. The text is what
// is told of it. The scheduler's lock is held.
func (d *deviceClaims) blocked(p *Pod) (*resourcev1.ResourceClaim, string) {
	a := d.attempt(p)
	if a == nil || len(p.Spec.ResourceClaims) == 0 {
		return nil, "no new claims to deallocate"
	}
	if c := a.Blocking(); c != nil {
		return c, "deallocation of ResourceClaim completed"
	}
	return nil, "still not schedulable"
}
