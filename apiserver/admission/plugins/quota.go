package plugins

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/api/quota"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// quotaTries bounds the attempts to charge one quota against other servers.
const quotaTries = 10

// resourceQuota charges what a write adds to the quotas of its namespace, and
// refuses what they do not leave room for. What is charged for a write that
// then fails is given back by the quota controller.
func resourceQuota(c *Config, d deps) (*plugin, error) {
	var conf quotaConfig
	if _, err := c.config("ResourceQuota", quotaKinds, &conf); err != nil {
		return nil, err
	}
	if err := conf.check(); err != nil {
		return nil, badConfig("ResourceQuota", err)
	}
	// Writers of one namespace queue here instead of racing for its quotas.
	var locks [64]sync.Mutex
	seed := maphash.MakeSeed()
	return &plugin{ops: ops(admission.Create, admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		if a.Namespace == "" || !charged(a) {
			return nil
		}
		quotas := client.ResourceQuotas.In(d.door, a.Namespace)
		all, err := list(ctx, quotas)
		if err != nil {
			return forbidden(a, err)
		}
		if len(all) == 0 && len(conf.LimitedResources) == 0 {
			return nil
		}
		whole, was, err := d.usage(ctx, a)
		if err != nil {
			return forbidden(a, err)
		}
		more := whole
		if a.Old != nil {
			more = quota.Subtract(whole, was)
		}
		if err := conf.covered(a, all, more); err != nil {
			return err
		}
		lock := &locks[maphash.String(seed, a.Namespace)%uint64(len(locks))]
		lock.Lock()
		defer lock.Unlock()
		for _, q := range all {
			delta := more
			if a.Old != nil && len(q.Spec.Scopes)+selectors(q) > 0 && !quota.Matches(q, a.Old) {
				delta = whole // the change brings the object into the quota's scope
			}
			if err := d.charge(ctx, a, quotas, q, delta); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// usage is what the object of a write uses, and what it used before.
func (d deps) usage(ctx context.Context, a *admission.Attributes) (is, was corev1.ResourceList, err error) {
	counter := quota.Counter{
		Now: d.now(),
		Class: func(name string) *resourcev1.DeviceClass {
			return ifThere(ctx, client.DeviceClasses.In(d.door, ""), name, &err)
		},
		Pod: func(namespace, name string) *corev1.Pod {
			return ifThere(ctx, client.Pods.In(d.door, namespace), name, &err)
		},
	}
	gr := a.Resource.GroupResource()
	is = counter.Usage(gr, a.Object)
	if a.Old != nil {
		was = counter.Usage(gr, a.Old)
	}
	return is, was, err
}

// ifThere is get that returns nil for what is not there. What else goes wrong
// it leaves in failed.
func ifThere[T client.Object](ctx context.Context, in client.Resource[T], name string, failed *error) T {
	var none T
	obj, err := get(ctx, in, name)
	if err == nil {
		return obj
	}
	if !apierrors.IsNotFound(err) {
		*failed = err
	}
	return none
}

// charged says that a write may use up quota: every object that is made, and
// those changes that make one larger.
func charged(a *admission.Attributes) bool {
	if a.Operation == admission.Create {
		return a.Subresource == ""
	}
	switch obj := a.Object.(type) {
	case *corev1.Pod:
		// A deadline moves a pod into the scope of pods that end.
		old, ok := a.Old.(*corev1.Pod)
		ends := ok && old.Spec.ActiveDeadlineSeconds == nil && obj.Spec.ActiveDeadlineSeconds != nil
		return a.Subresource == "resize" || a.Subresource == "" && ends
	case *corev1.Service, *corev1.PersistentVolumeClaim:
		return a.Subresource == ""
	}
	return false
}

// selectors counts a quota's scope selectors.
func selectors(q *corev1.ResourceQuota) int {
	if q.Spec.ScopeSelector == nil {
		return 0
	}
	return len(q.Spec.ScopeSelector.MatchExpressions)
}

// charge adds delta to one quota.
func (d deps) charge(ctx context.Context, a *admission.Attributes, quotas client.Resource[*corev1.ResourceQuota], q *corev1.ResourceQuota, delta corev1.ResourceList) error {
	if !quota.Matches(q, a.Object) {
		return nil
	}
	// Also of a pod that asks for nothing that is counted.
	if pod, ok := a.Object.(*corev1.Pod); ok && a.Operation == admission.Create {
		if missing := quota.Unstated(q, pod); missing != "" {
			return forbid(a, fmt.Sprintf("failed quota: %s: must specify %s", q.Name, missing))
		}
	}
	if len(quota.Mask(delta, q.Status.Hard)) == 0 {
		return nil
	}
	var err error
	for range quotaTries {
		if q, err = quotas.Get(ctx, q.Name); err != nil {
			break
		}
		var used corev1.ResourceList
		if used, err = quota.Charge(q, delta); err != nil {
			return forbidden(a, err)
		}
		if used == nil || a.DryRun {
			return nil
		}
		q = q.DeepCopy()
		q.Status.Used = used
		if _, err = quotas.UpdateStatus(ctx, q); !apierrors.IsConflict(err) {
			break
		}
	}
	if apierrors.IsNotFound(err) {
		return nil // the quota was deleted meanwhile
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("charging quota %s: %w", q.Name, err))
	}
	return nil
}
