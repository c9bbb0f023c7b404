// Package resourcequota keeps the status of ResourceQuotas: the objects that
// quotas count come in, what they use goes out. Admission charges what is
// made; this controller gives back what is gone.
package resourcequota

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/quota"
)

// Status is the status that a quota is to have. objects returns the objects
// of a resource in the quota's namespace, and whether they are known: what is
// not known keeps the usage that it had.
func Status(q *corev1.ResourceQuota, objects func(schema.GroupResource) ([]any, bool), now time.Time) corev1.ResourceQuotaStatus {
	out := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: corev1.ResourceList{}}
	byResource := map[schema.GroupResource]corev1.ResourceList{}
	for name := range q.Spec.Hard {
		gr := quota.Resource(name)
		if byResource[gr] == nil {
			byResource[gr] = corev1.ResourceList{}
		}
		byResource[gr][name] = resource.Quantity{}
	}
	for gr, names := range byResource {
		all, known := objects(gr)
		if !known {
			for name := range names {
				out.Used[name] = q.Status.Used[name].DeepCopy()
			}
			continue
		}
		used := names.DeepCopy()
		for name := range used {
			used[name] = zero(name, q.Spec.Hard[name])
		}
		for _, o := range all {
			if quota.Matches(q, o) {
				used = quota.Add(used, quota.Mask(quota.Usage(gr, o, now), names))
			}
		}
		for name, v := range used {
			out.Used[name] = v
		}
	}
	return out
}

// zero is nothing, written in the format of the limit.
func zero(_ corev1.ResourceName, hard resource.Quantity) resource.Quantity {
	return *resource.NewQuantity(0, hard.Format)
}

// shrank says that a change of an object may have given something back.
func shrank(gr schema.GroupResource, obj, old any, now time.Time) bool {
	switch obj.(type) {
	case *corev1.Pod, *corev1.Service, *corev1.PersistentVolumeClaim:
	default:
		return false
	}
	after := quota.Usage(gr, obj, now)
	for name, was := range quota.Usage(gr, old, now) {
		if is := after[name]; is.Cmp(was) < 0 {
			return true
		}
	}
	return false
}

// moved says that a change of an object may have taken it from some quotas to
// others: of what scopes look at, this is what can change.
func moved(obj, old any) bool {
	switch o := obj.(type) {
	case *corev1.Pod:
		return !ptr.Equal(o.Spec.ActiveDeadlineSeconds, old.(*corev1.Pod).Spec.ActiveDeadlineSeconds)
	case *corev1.PersistentVolumeClaim:
		return !ptr.Equal(o.Spec.VolumeAttributesClassName, old.(*corev1.PersistentVolumeClaim).Spec.VolumeAttributesClassName)
	}
	return false
}

// freed is what a change of an object (nil: it is gone) gives back to a quota.
func freed(q *corev1.ResourceQuota, gr schema.GroupResource, obj, old any, now time.Time) corev1.ResourceList {
	if !quota.Matches(q, old) {
		return nil
	}
	was, is := quota.Usage(gr, old, now), corev1.ResourceList{}
	if obj != nil && quota.Matches(q, obj) {
		is = quota.Usage(gr, obj, now)
	}
	out := corev1.ResourceList{}
	for name, v := range was {
		v = v.DeepCopy()
		if v.Sub(is[name]); v.Sign() > 0 {
			out[name] = v
		}
	}
	return out
}
