package resourceclaim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const (
	workers = 10
	// What the queue's keys begin with.
	podKey, claimKey = "pod:", "claim:"
)

// Controller looks after claims.
type Controller struct {
	env       controllers.Env
	pods      client.Informer[*corev1.Pod]
	claims    client.Informer[*resourcev1.ResourceClaim]
	templates client.Informer[*resourcev1.ResourceClaimTemplate]
	loop      *client.Loop
	writes    client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:       env,
		pods:      client.InformerFor(env.Informers, client.Pods),
		claims:    client.InformerFor(env.Informers, client.ResourceClaims),
		templates: client.InformerFor(env.Informers, client.ResourceClaimTemplates),
	}
	c.loop = env.NewLoop("resource_claim", c.reconcile)
	if err := c.claims.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*resourcev1.ResourceClaim]); err != nil {
		return nil, err
	}
	if err := c.pods.AddIndex(wantedIndex, wanted); err != nil {
		return nil, err
	}
	if _, err := c.pods.OnChange(c.podChanged); err != nil {
		return nil, err
	}
	if _, err := c.claims.OnChange(c.claimChanged); err != nil {
		return nil, err
	}
	_, err := c.templates.OnChange(func(t, old *resourcev1.ResourceClaimTemplate) {
		if t != nil && old == nil {
			c.wakePods(t.Namespace + "/template/" + t.Name)
		}
	})
	return c, err
}

// wantedIndex is the index of pods by what they want: "namespace/claim/NAME"
// and "namespace/template/NAME".
const wantedIndex = "resourceclaims"

func wanted(p *corev1.Pod) []string {
	var out []string
	for _, n := range uses(p) {
		out = append(out, p.Namespace+"/claim/"+n)
	}
	for i := range p.Spec.ResourceClaims {
		if t := p.Spec.ResourceClaims[i].ResourceClaimTemplateName; t != nil {
			out = append(out, p.Namespace+"/template/"+*t)
		}
	}
	return out
}

func (c *Controller) wakePods(want string) {
	for _, p := range c.pods.ByIndex(wantedIndex, want) {
		c.loop.Add(podKey + p.Namespace + "/" + p.Name)
	}
}

// podChanged wakes the pod while it lives, and its claims when it is done.
func (c *Controller) podChanged(p, old *corev1.Pod) {
	last := p
	if p == nil {
		last = old
	}
	if len(last.Spec.ResourceClaims) == 0 && last.Status.ExtendedResourceClaimStatus == nil {
		return
	}
	if p != nil && !done(p) {
		if p.DeletionTimestamp == nil {
			c.loop.Add(podKey + p.Namespace + "/" + p.Name)
		}
		return
	}
	for _, name := range uses(last) {
		c.loop.Add(claimKey + last.Namespace + "/" + name)
	}
	for _, claim := range c.claims.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(last.UID))) {
		c.loop.Add(claimKey + claim.Namespace + "/" + claim.Name)
	}
}

// claimChanged wakes the claim, and the pods that use it when it comes, is
// allocated or goes.
func (c *Controller) claimChanged(claim, old *resourcev1.ResourceClaim) {
	last := claim
	if claim != nil {
		c.loop.Add(claimKey + claim.Namespace + "/" + claim.Name)
	} else {
		last = old
	}
	if claim == nil || old == nil || (claim.Status.Allocation != nil) != (old.Status.Allocation != nil) {
		c.wakePods(last.Namespace + "/claim/" + last.Name)
		if ref := metav1.GetControllerOfNoCopy(last); ref != nil && ref.Kind == "Pod" {
			c.loop.Add(podKey + last.Namespace + "/" + ref.Name)
		}
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	if name, ok := strings.CutPrefix(key, podKey); ok {
		return 0, c.reconcilePod(ctx, name)
	}
	return 0, c.reconcileClaim(ctx, strings.TrimPrefix(key, claimKey))
}

func (c *Controller) reconcilePod(ctx context.Context, key string) error {
	p, ok := c.pods.GetKey(key)
	if !ok {
		c.writes.Forget(key)
		return nil
	}
	if !c.claims.CaughtUp(&c.writes, key) {
		return nil // the claim's event comes
	}
	plan, unable := ForPod(p, World{
		Claim: func(name string) *resourcev1.ResourceClaim { claim, _ := c.claims.Get(p.Namespace, name); return claim },
		Template: func(name string) *resourcev1.ResourceClaimTemplate {
			t, _ := c.templates.Get(p.Namespace, name)
			return t
		},
		Owned: func() []*resourcev1.ResourceClaim {
			return c.claims.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(p.UID)))
		},
	})
	errs := []error{unable}
	for _, claim := range plan.Create {
		entry := claim.Annotations[resourcev1.PodResourceClaimAnnotation]
		made, err := client.ResourceClaims.In(c.env.Client, p.Namespace).Create(ctx, claim)
		c.env.Counts.ResourceClaimMade(err)
		if controllers.NamespaceEnding(err) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("PodResourceClaim %s: create: %w", entry, err))
			continue
		}
		c.writes.Wrote(key, made)
		plan.Names[entry] = made.Name
	}
	if err := errors.Join(errs...); err != nil {
		c.env.Events.Event(p, corev1.EventTypeWarning, "FailedResourceClaimCreation", err.Error())
	}
	if len(plan.Names) > 0 {
		errs = append(errs, c.note(ctx, p, plan.Names))
	}
	for _, claim := range plan.Reserve {
		errs = append(errs, c.reserve(ctx, p, claim))
	}
	return errors.Join(errs...)
}

// note enters claims' names into the pod's status.
func (c *Controller) note(ctx context.Context, p *corev1.Pod, names map[string]string) error {
	m := p.DeepCopy()
	m.Status.ResourceClaimStatuses = named(m.Status.ResourceClaimStatuses, names)
	patch, err := controllers.StatusPatch(p, m)
	if err != nil {
		return err
	}
	_, err = client.Pods.In(c.env.Client, p.Namespace).Patch(ctx, p.Name, patch.Type, patch.Data, client.Sub("status"))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("noting the claims of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

func (c *Controller) reserve(ctx context.Context, p *corev1.Pod, claim *resourcev1.ResourceClaim) error {
	m := claim.DeepCopy()
	m.Status.ReservedFor = append(m.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
	if _, err := client.ResourceClaims.In(c.env.Client, claim.Namespace).UpdateStatus(ctx, m); err != nil {
		return fmt.Errorf("reserving claim %s for pod %s/%s: %w", claim.Name, p.Namespace, p.Name, err)
	}
	return nil
}

func (c *Controller) reconcileClaim(ctx context.Context, key string) error {
	claim, ok := c.claims.GetKey(key)
	if !ok {
		return nil
	}
	var unsure error
	plan := ForClaim(claim, func(r resourcev1.ResourceClaimConsumerReference) bool {
		gone, err := c.gone(ctx, claim.Namespace, r)
		unsure = errors.Join(unsure, err)
		return gone
	}, func() bool {
		ref := metav1.GetControllerOfNoCopy(claim)
		if ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" {
			return false
		}
		// Claims of pods that are gone are the garbage collector's.
		p, ok := c.pods.Get(claim.Namespace, ref.Name)
		return ok && p.UID == ref.UID && done(p)
	})
	if unsure != nil {
		return unsure
	}
	return c.apply(ctx, claim, plan)
}

func (c *Controller) apply(ctx context.Context, claim *resourcev1.ResourceClaim, plan ClaimPlan) error {
	in := client.ResourceClaims.In(c.env.Client, claim.Namespace)
	rv := claim.ResourceVersion
	if plan.Status != nil {
		m := claim.DeepCopy()
		m.Status = *plan.Status
		got, err := in.UpdateStatus(ctx, m)
		if err != nil {
			return ignoreGone(fmt.Errorf("freeing claim %s/%s: %w", claim.Namespace, claim.Name, err))
		}
		rv = got.ResourceVersion
	}
	if plan.Release {
		list := slices.DeleteFunc(slices.Clone(claim.Finalizers), func(f string) bool { return f == resourcev1.Finalizer })
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": claim.UID, "resourceVersion": rv, "finalizers": list}})
		if err != nil {
			return err
		}
		if _, err := in.Patch(ctx, claim.Name, types.MergePatchType, patch); err != nil {
			return ignoreGone(fmt.Errorf("taking the finalizer off claim %s/%s: %w", claim.Namespace, claim.Name, err))
		}
	}
	if plan.Delete {
		uid := claim.UID
		if err := in.Delete(ctx, claim.Name, client.Exactly(uid)); err != nil {
			return ignoreGone(fmt.Errorf("deleting claim %s/%s: %w", claim.Namespace, claim.Name, err))
		}
	}
	return nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// gone says that a consumer uses a claim no longer. The informer alone cannot
// say that a pod is not there: it may be too new.
func (c *Controller) gone(ctx context.Context, namespace string, r resourcev1.ResourceClaimConsumerReference) (bool, error) {
	if r.APIGroup != "" || r.Resource != "pods" {
		return false, nil // not one of ours to judge
	}
	if p, ok := c.pods.Get(namespace, r.Name); ok && p.UID == r.UID {
		return done(p), nil
	}
	p, err := client.Pods.In(c.env.Client, namespace).Get(ctx, r.Name)
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("looking for pod %s/%s: %w", namespace, r.Name, err)
	}
	return p.UID != r.UID || done(p), nil
}
