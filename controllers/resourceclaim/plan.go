// Package resourceclaim looks after the claims of dynamic resource
// allocation: pods, templates and claims in; claims made for pods, their
// names in the pods' status, and the end of reservations, allocations and
// generated claims out (KEP-3063, KEP-4381).
package resourceclaim

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/controllers/pods"
)

// done says that a pod uses its claims no longer: it has finished, or was
// deleted before a node could run it.
func done(p *corev1.Pod) bool {
	return pods.Finished(p) || p.DeletionTimestamp != nil && p.Spec.NodeName == ""
}

// uses are the names of a pod's claims as far as they are known.
func uses(p *corev1.Pod) []string {
	var out []string
	for i := range p.Spec.ResourceClaims {
		if n := claimName(p, &p.Spec.ResourceClaims[i]); n != "" {
			out = append(out, n)
		}
	}
	if e := p.Status.ExtendedResourceClaimStatus; e != nil {
		out = append(out, e.ResourceClaimName)
	}
	return out
}

// claimName is what the claim of one of a pod's entries is called; "" is not
// known yet.
func claimName(p *corev1.Pod, c *corev1.PodResourceClaim) string {
	if c.ResourceClaimName != nil {
		return *c.ResourceClaimName
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.Name == c.Name && s.ResourceClaimName != nil {
			return *s.ResourceClaimName
		}
	}
	return ""
}

// World is what a pod's plan asks about.
type World struct {
	// Claim and Template return what the pod's namespace holds under a name;
	// nil is nothing.
	Claim    func(name string) *resourcev1.ResourceClaim
	Template func(name string) *resourcev1.ResourceClaimTemplate
	// Owned are the claims that the pod controls.
	Owned func() []*resourcev1.ResourceClaim
}

// PodPlan is what a pod needs.
type PodPlan struct {
	// Create are claims to make; their names belong into the pod's status.
	Create []*resourcev1.ResourceClaim
	// Names are claims that are there but whose names the status lacks, by the
	// name of the pod's entry.
	Names map[string]string
	// Reserve are allocated claims that the pod, which nobody scheduled, is to
	// be entered in.
	Reserve []*resourcev1.ResourceClaim
}

// ForPod makes the plan of a pod. What cannot be done is in the error, the
// rest in the plan all the same.
func ForPod(p *corev1.Pod, w World) (PodPlan, error) {
	plan := PodPlan{Names: map[string]string{}}
	if done(p) || p.DeletionTimestamp != nil {
		return plan, nil
	}
	var errs []error
	for i := range p.Spec.ResourceClaims {
		c := &p.Spec.ResourceClaims[i]
		claim, err := plan.entry(p, c, w)
		if err != nil {
			errs = append(errs, fmt.Errorf("PodResourceClaim %s: %w", c.Name, err))
			continue
		}
		if claim != nil && p.Spec.NodeName != "" && claim.Status.Allocation != nil && !reserved(claim, p) &&
			len(claim.Status.ReservedFor) < resourcev1.ResourceClaimReservedForMaxSize {
			plan.Reserve = append(plan.Reserve, claim)
		}
	}
	return plan, errors.Join(errs...)
}

// entry finds the claim of one of the pod's entries, or plans to make it.
func (plan *PodPlan) entry(p *corev1.Pod, c *corev1.PodResourceClaim, w World) (*resourcev1.ResourceClaim, error) {
	if c.ResourceClaimName != nil {
		return w.Claim(*c.ResourceClaimName), nil
	}
	if c.ResourceClaimTemplateName == nil {
		return nil, nil
	}
	if name := claimName(p, c); name != "" {
		if have := w.Claim(name); have != nil {
			if !metav1.IsControlledBy(have, p) {
				return nil, fmt.Errorf("ResourceClaim %s/%s was not created for pod %s/%s (pod is not owner)", have.Namespace, have.Name, p.Namespace, p.Name)
			}
			return have, nil
		}
	}
	for _, have := range w.Owned() {
		if have.Annotations[resourcev1.PodResourceClaimAnnotation] == c.Name && have.DeletionTimestamp == nil {
			plan.Names[c.Name] = have.Name
			return have, nil
		}
	}
	t := w.Template(*c.ResourceClaimTemplateName)
	if t == nil {
		return nil, fmt.Errorf("resource claim template %q: resourceclaimtemplate.resource.k8s.io %q not found", *c.ResourceClaimTemplateName, *c.ResourceClaimTemplateName)
	}
	plan.Create = append(plan.Create, generate(p, c.Name, t))
	return nil, nil
}

// generate is the claim that a template makes for one of a pod's entries.
func generate(p *corev1.Pod, entry string, t *resourcev1.ResourceClaimTemplate) *resourcev1.ResourceClaim {
	annotations := maps.Clone(t.Spec.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[resourcev1.PodResourceClaimAnnotation] = entry
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: p.Name + "-" + entry + "-", Namespace: p.Namespace,
			Labels: maps.Clone(t.Spec.Labels), Annotations: annotations,
			// The claim does not hold up a foreground deletion of its pod.
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: ptr.To(true)}},
		},
		Spec: *t.Spec.Spec.DeepCopy(),
	}
}

func reserved(c *resourcev1.ResourceClaim, p *corev1.Pod) bool {
	return slices.ContainsFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == p.UID })
}

// named returns the statuses with the names entered.
func named(have []corev1.PodResourceClaimStatus, names map[string]string) []corev1.PodResourceClaimStatus {
	out := slices.DeleteFunc(slices.Clone(have), func(s corev1.PodResourceClaimStatus) bool { _, ok := names[s.Name]; return ok })
	for _, entry := range slices.Sorted(maps.Keys(names)) {
		name := names[entry]
		out = append(out, corev1.PodResourceClaimStatus{Name: entry, ResourceClaimName: &name})
	}
	return out
}

// ClaimPlan is what is to be done about a claim, in this order.
type ClaimPlan struct {
	// Status is the status to write; nil leaves it alone.
	Status *resourcev1.ResourceClaimStatus
	// Release takes the finalizer away that protected the allocation.
	Release bool
	// Delete deletes a claim that was made for a pod.
	Delete bool
}

// ForClaim makes the plan of a claim: consumers that use it no longer (gone)
// leave, the last one takes the allocation with it, and a claim made for a pod
// goes when that pod is done (ownerDone).
func ForClaim(c *resourcev1.ResourceClaim, gone func(resourcev1.ResourceClaimConsumerReference) bool, ownerDone func() bool) ClaimPlan {
	var plan ClaimPlan
	left := slices.DeleteFunc(slices.Clone(c.Status.ReservedFor), gone)
	fewer := len(left) < len(c.Status.ReservedFor)
	free := len(left) == 0 && (fewer || c.DeletionTimestamp != nil)
	ours := slices.Contains(c.Finalizers, resourcev1.Finalizer)
	if fewer || free && ours && c.Status.Allocation != nil {
		plan.Status = c.Status.DeepCopy()
		plan.Status.ReservedFor = left
		if free && ours {
			// Devices report on an allocation, and go with it.
			plan.Status.Allocation, plan.Status.Devices = nil, nil
		}
	}
	plan.Release = free && ours
	plan.Delete = len(left) == 0 && c.DeletionTimestamp == nil && ownerDone()
	return plan
}
