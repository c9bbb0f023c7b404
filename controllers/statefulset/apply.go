package statefulset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/revisions"
)

func (c *Controller) apply(ctx context.Context, key string, set *appsv1.StatefulSet, plan *Plan, current, update *appsv1.ControllerRevision) error {
	if set.DeletionTimestamp != nil {
		return nil
	}
	for _, p := range plan.Keep {
		if err := c.keep(ctx, key, set, p); err != nil {
			return err
		}
	}
	old := &set.Spec.Template
	if current.Name != update.Name {
		var err error
		if old, err = revisions.Template(current); err != nil {
			return err
		}
	}
	// Before the pods go, their claims learn with whom they go.
	for _, p := range plan.Condemned {
		if err := c.adjustClaims(ctx, key, set, ordinalOf(set, p.Name), p, true); err != nil {
			return err
		}
	}
	if err := controllers.Each(len(plan.Delete), func(i int) error { return c.delete(ctx, key, set, plan.Delete[i]) }); err != nil {
		return err
	}
	_, err := controllers.SlowStart(len(plan.Create), func(i int) error {
		n := plan.Create[i]
		template := &set.Spec.Template
		if n.Revision != update.Name {
			template = old
		}
		return c.create(ctx, key, set, newPod(set, template, n.Revision, n.Ordinal), n.Ordinal)
	})
	return err
}

// keep restores what makes a pod the one of its ordinal.
func (c *Controller) keep(ctx context.Context, key string, set *appsv1.StatefulSet, p *corev1.Pod) error {
	ordinal := ordinalOf(set, p.Name)
	if p.Status.Phase == corev1.PodPending || p.Status.Phase == "" {
		if _, err := c.ensureClaims(ctx, key, set, ordinal, p); err != nil {
			return err
		}
	}
	if err := c.adjustClaims(ctx, key, set, ordinal, p, false); err != nil {
		return err
	}
	if p.Labels[appsv1.StatefulSetPodNameLabel] == p.Name && p.Labels[appsv1.PodIndexLabel] != "" {
		return nil
	}
	m := p.DeepCopy()
	if !identify(m, ordinal) {
		return nil
	}
	got, err := client.Pods.In(c.env.Client, set.Namespace).Update(ctx, m)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("restoring the identity of pod %s: %w", p.Name, err)
	}
	c.podsW.Wrote(key, got)
	return nil
}

// ensureClaims makes the claims of an ordinal that are not there; ready is
// false when one is still on its way out, which its going tells us.
func (c *Controller) ensureClaims(ctx context.Context, key string, set *appsv1.StatefulSet, ordinal int, pod *corev1.Pod) (ready bool, err error) {
	name := podName(set, ordinal)
	for _, want := range claims(set, ordinal) {
		if have, ok := c.claims.Get(set.Namespace, want.Name); ok {
			if stale(have, name, pod) {
				return false, nil
			}
			continue
		}
		if refs, _ := ownersOf(set, want, name, pod, retentionOf(set, false)); refs != nil {
			want.OwnerReferences = refs
		}
		text := describe(set, want, name)
		got, err := client.PersistentVolumeClaims.In(c.env.Client, set.Namespace).Create(ctx, want)
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			if !controllers.NamespaceEnding(err) {
				c.env.Events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create %s failed error: %s", text, err)
			}
			return false, fmt.Errorf("creating claim: %w", err)
		}
		c.claimsW.Wrote(key, got)
		c.env.Events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create %s success", text)
	}
	return true, nil
}

// adjustClaims makes the owners of the claims what the retention policy says.
func (c *Controller) adjustClaims(ctx context.Context, key string, set *appsv1.StatefulSet, ordinal int, pod *corev1.Pod, condemned bool) error {
	for i := range set.Spec.VolumeClaimTemplates {
		have, ok := c.claims.Get(set.Namespace, claimName(set, set.Spec.VolumeClaimTemplates[i].Name, ordinal))
		if !ok || have.DeletionTimestamp != nil {
			continue
		}
		refs, change := ownersOf(set, have, podName(set, ordinal), pod, retentionOf(set, condemned))
		if !change {
			continue
		}
		m := have.DeepCopy()
		m.OwnerReferences = refs
		got, err := client.PersistentVolumeClaims.In(c.env.Client, set.Namespace).Update(ctx, m)
		if err != nil {
			return fmt.Errorf("changing the owners of claim %s: %w", have.Name, err)
		}
		c.claimsW.Wrote(key, got)
	}
	return nil
}

func (c *Controller) create(ctx context.Context, key string, set *appsv1.StatefulSet, p *corev1.Pod, ordinal int) error {
	ready, err := c.ensureClaims(ctx, key, set, ordinal, nil)
	if err != nil || !ready {
		return err
	}
	name := p.Name
	_, err = controllers.Create(ctx, c.env.Client, client.Pods, &c.podsW, key, p)
	if err != nil {
		if !controllers.NamespaceEnding(err) {
			c.env.Events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create Pod %s in StatefulSet %s failed error: %s", name, set.Name, err)
		}
		return fmt.Errorf("creating pod %s: %w", name, err)
	}
	c.env.Events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Pod %s in StatefulSet %s successful", name, set.Name)
	return nil
}

func (c *Controller) delete(ctx context.Context, key string, set *appsv1.StatefulSet, p *corev1.Pod) error {
	switch p.Status.Phase {
	case corev1.PodFailed:
		c.env.Events.Eventf(set, corev1.EventTypeWarning, "RecreatingFailedPod", "StatefulSet %s/%s is recreating failed Pod %s", set.Namespace, set.Name, p.Name)
	case corev1.PodSucceeded:
		c.env.Events.Eventf(set, corev1.EventTypeNormal, "RecreatingTerminatedPod", "StatefulSet %s/%s is recreating terminated Pod %s", set.Namespace, set.Name, p.Name)
	}
	done, err := controllers.Delete(ctx, c.env.Client, client.Pods, &c.podsW, key, p, client.Options{})
	if err == nil {
		if done {
			c.env.Events.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "Delete Pod %s in StatefulSet %s successful", p.Name, set.Name)
		}
		return nil
	}
	c.env.Events.Eventf(set, corev1.EventTypeWarning, "FailedDelete", "Delete Pod %s in StatefulSet %s failed error: %s", p.Name, set.Name, err)
	return fmt.Errorf("deleting pod %s: %w", p.Name, err)
}
