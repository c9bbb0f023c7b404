package devices

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
)

// Why a node does not take a pod, in upstream's words.
const (
	cannotAllocate = "cannot allocate all claims"
	notThere       = "resourceclaim not available on the node"
	timedOut       = "timed out trying to allocate devices for all claims"
)

// patience is how long the search for devices may take for one pod, as
// upstream's filterTimeout is for one node.
const patience = 10 * time.Second

// Attempt is one pod's claims as one state of the ledger has them. It is
// guarded by what guards the ledger.
type Attempt struct {
	// Refusal is why no node takes the pod; "" if one may.
	Refusal string
	// Ranked says that nodes differ in how much they give of what the pod would
	// rather have (Outcome.Rank).
	Ranked bool

	ledger   *Ledger
	version  uint64
	pod      *corev1.Pod
	ready    []ready                     // claims that have an allocation
	open     []*resourcev1.ResourceClaim // claims that need one
	extended []extended                  // extended resources that a class may serve
	special  *resourcev1.ResourceClaim   // the claim that is there for them; nil is none
	outcomes map[*corev1.Node]*Outcome
	deadline time.Time
}

// ready is a claim that has been allocated, and where it can be used: nil is
// everywhere.
type ready struct {
	claim *resourcev1.ResourceClaim
	where *nodeaffinity.NodeSelector
}

// Outcome is what an attempt comes to on one node.
type Outcome struct {
	// Refusal is why the node does not take the pod; Fault says that the
	// reason is a claim or class that nobody can evaluate.
	Refusal string
	Fault   bool
	// Blocked are allocated claims that cannot be used on the node.
	Blocked []*resourcev1.ResourceClaim
	// Rank grows with how early the alternatives stand that were chosen, the
	// best of which counts eight (KEP-4816).
	Rank int64
	Plan *Plan
}

// Plan is what is to be written before the pod may be bound to the node.
type Plan struct {
	Claims []Decision
	// Mappings tell which request of the claim for extended resources, the one
	// decision with Special set, serves which container.
	Mappings []corev1.ContainerExtendedResourceRequest
}

// Decision is what one claim of the pod gets.
type Decision struct {
	Claim *resourcev1.ResourceClaim
	// Allocation is the one it is to be given; nil if it has one.
	Allocation *resourcev1.AllocationResult
	// Special says that the claim is for extended resources. Without a UID it
	// is yet to be made.
	Special bool
}

// NeedsDevices says that a pod has claims, or asks for resources that classes
// serve: others have nothing to do with devices.
func (l *Ledger) NeedsDevices(p *corev1.Pod, scalars map[corev1.ResourceName]int64) bool {
	return len(p.Spec.ResourceClaims) > 0 || l.serves(scalars)
}

func (l *Ledger) serves(scalars map[corev1.ResourceName]int64) bool {
	if len(l.classes.byResource) == 0 {
		return false
	}
	for name, n := range scalars {
		if n > 0 && l.ClassFor(name) != "" {
			return true
		}
	}
	return false
}

// Missing says why a pod need not be tried: a claim of it is not there, is on
// its way out or is not its own. "" is nothing.
func (l *Ledger) Missing(p *corev1.Pod) string {
	_, why := l.claimsOf(p)
	return why
}

// claimsOf returns the claims that the pod's spec names.
func (l *Ledger) claimsOf(p *corev1.Pod) ([]*resourcev1.ResourceClaim, string) {
	var out []*resourcev1.ResourceClaim
	for i := range p.Spec.ResourceClaims {
		name, made, err := resourceclaim.Name(p, &p.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err.Error()
		}
		if name == nil {
			continue // it was found that the pod needs none
		}
		claim := l.Claim(p.Namespace, *name)
		switch {
		case claim == nil:
			return nil, fmt.Sprintf("resourceclaim %q not found", *name)
		case claim.DeletionTimestamp != nil:
			return nil, fmt.Sprintf("resourceclaim %q is being deleted", *name)
		}
		if made {
			if err := resourceclaim.IsForPod(p, claim, false); err != nil {
				return nil, err.Error()
			}
		}
		out = append(out, claim)
	}
	return out, ""
}

// Attempt prepares the pod's claims; nil for a pod that needs no devices.
// scalars is the pod's request of other resources than the usual ones.
func (l *Ledger) Attempt(p *corev1.Pod, scalars map[corev1.ResourceName]int64) *Attempt {
	if !l.NeedsDevices(p, scalars) {
		return nil
	}
	a := &Attempt{ledger: l, version: l.version, pod: p, outcomes: map[*corev1.Node]*Outcome{}, deadline: time.Now().Add(patience)}
	claims, why := l.claimsOf(p)
	if a.Refusal = why; why != "" {
		return a
	}
	if l.serves(scalars) {
		a.extended = l.extendedOf(p)
		if c := l.claims[l.special[p.UID]]; c != nil && c.DeletionTimestamp == nil {
			a.special = c
			claims = append(claims, c)
		}
	}
	for _, claim := range claims {
		if a.Refusal = a.take(claim); a.Refusal != "" {
			return a
		}
	}
	return a
}

// Current says that the attempt still holds for a pod.
func (a *Attempt) Current(p *corev1.Pod) bool {
	return a != nil && a.pod == p && a.version == a.ledger.version
}

// take sorts a claim in, or says why it cannot be used.
func (a *Attempt) take(c *resourcev1.ResourceClaim) string {
	for i := range c.Spec.Devices.Requests {
		a.Ranked = a.Ranked || len(c.Spec.Devices.Requests[i].FirstAvailable) > 0
	}
	if have := c.Status.Allocation; have != nil {
		if !resourceclaim.IsReservedForPod(a.pod, c, false) && Full(c) {
			return "resourceclaim in use"
		}
		r := ready{claim: c}
		if have.NodeSelector != nil {
			where, err := nodeaffinity.NewNodeSelector(have.NodeSelector)
			if err != nil {
				return err.Error()
			}
			r.where = where
		}
		a.ready = append(a.ready, r)
		return ""
	}
	if a.ledger.promised[c.UID] != nil {
		return fmt.Sprintf("resource claim %s is in the process of being allocated", keyOf(c))
	}
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		if r.Exactly != nil {
			if why := a.ledger.classes.missing(r.Name, r.Exactly.DeviceClassName); why != "" {
				return why
			}
		}
		for j := range r.FirstAvailable {
			sub := &r.FirstAvailable[j]
			if why := a.ledger.classes.missing(r.Name+"/"+sub.Name, sub.DeviceClassName); why != "" {
				return why
			}
		}
	}
	a.open = append(a.open, c)
	return ""
}

func (c *classes) missing(request, class string) string {
	if c.byName[class] != nil {
		return ""
	}
	return fmt.Sprintf("request %s: device class %s does not exist", request, class)
}

// On returns what comes of the attempt on a node.
func (a *Attempt) On(node *corev1.Node) *Outcome {
	if out := a.outcomes[node]; out != nil {
		return out
	}
	out := a.on(node)
	a.outcomes[node] = out
	return out
}

func (a *Attempt) on(node *corev1.Node) *Outcome {
	out := &Outcome{}
	plan := &Plan{}
	for _, r := range a.ready {
		if r.where != nil && !r.where.Match(node) {
			out.Blocked, out.Refusal = append(out.Blocked, r.claim), notThere
			continue
		}
		out.Rank += rank(r.claim, r.claim.Status.Allocation)
		plan.Claims = append(plan.Claims, Decision{Claim: r.claim, Special: r.claim == a.special})
	}
	if out.Refusal != "" {
		return out
	}
	open := a.open
	if len(a.extended) > 0 {
		claim, mappings := a.forExtended(node)
		plan.Mappings = mappings
		switch {
		case claim == nil || claim == a.special:
		case a.special != nil:
			out.Refusal = cannotAllocate // it was made for other resources
			return out
		default:
			open = append(open[:len(open):len(open)], claim)
		}
	}
	if len(open) > 0 {
		results, refusal, fault := a.allocate(node, open)
		if refusal != "" {
			out.Refusal, out.Fault = refusal, fault
			return out
		}
		for i := range results {
			out.Rank += rank(open[i], &results[i])
			plan.Claims = append(plan.Claims, Decision{Claim: open[i], Allocation: &results[i], Special: open[i].UID == "" || open[i] == a.special})
		}
	}
	out.Plan = plan
	return out
}

// allocate finds devices on a node for all the claims, or says why there are
// none.
func (a *Attempt) allocate(node *corev1.Node, open []*resourcev1.ResourceClaim) (results []resourcev1.AllocationResult, refusal string, fault bool) {
	ctx, cancel := context.WithDeadline(context.Background(), a.deadline)
	defer cancel()
	allocator, err := a.ledger.prepared(ctx)
	if err == nil {
		results, err = allocator.Allocate(ctx, node, open)
	}
	switch {
	case err == nil && results == nil:
		return nil, cannotAllocate, false
	case err == nil:
		return results, "", false
	case errors.Is(err, context.DeadlineExceeded):
		return nil, timedOut, false
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return nil, err.Error(), false
	}
	return nil, err.Error(), true
}

// rank adds up what the chosen alternatives of a claim's requests are worth.
func rank(c *resourcev1.ResourceClaim, a *resourcev1.AllocationResult) int64 {
	var sum int64
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		for j := range r.FirstAvailable {
			if chosen(a, r.Name+"/"+r.FirstAvailable[j].Name) {
				sum += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - j)
				break
			}
		}
	}
	return sum
}

func chosen(a *resourcev1.AllocationResult, request string) bool {
	for i := range a.Devices.Results {
		if a.Devices.Results[i].Request == request {
			return true
		}
	}
	return false
}

// Full says that as many pods use a claim as may.
func Full(c *resourcev1.ResourceClaim) bool {
	return len(c.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize
}

// Names says that a pod uses a claim of this name.
func Names(p *corev1.Pod, claim string) bool {
	for i := range p.Spec.ResourceClaims {
		if name, _, err := resourceclaim.Name(p, &p.Spec.ResourceClaims[i]); err == nil && name != nil && *name == claim {
			return true
		}
	}
	e := p.Status.ExtendedResourceClaimStatus
	return e != nil && e.ResourceClaimName == claim
}

// Blocking returns a claim whose allocation keeps the pod from a node that was
// looked at, and that nobody else uses; nil is none.
func (a *Attempt) Blocking() *resourcev1.ResourceClaim {
	for _, out := range a.outcomes {
		for _, c := range out.Blocked {
			users := c.Status.ReservedFor
			if len(users) == 0 || len(users) == 1 && users[0].UID == a.pod.UID {
				return c
			}
		}
	}
	return nil
}
