// Package resourcequota keeps the status of ResourceQuotas: the objects that
// quotas count come in, what they use goes out. Admission charges what is
// made; this controller gives back what is gone.
package resourcequota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/quota"
)

// Status is the status that a quota is to have. objects returns the objects
// of a resource in the quota's namespace, and whether they are known: what is
// not known keeps the usage that it had. All are asked for before any is
// counted.
func Status(q *corev1.ResourceQuota, objects func(schema.GroupResource) ([]any, bool), counter quota.Counter) corev1.ResourceQuotaStatus {
	out := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: corev1.ResourceList{}}
	type source struct {
		names   corev1.ResourceList
		objects []any
		known   bool
	}
	sources := map[schema.GroupResource]*source{}
	for name, hard := range q.Spec.Hard {
		out.Used[name] = zero(hard)
		for _, gr := range quota.Resources(name) {
			if sources[gr] == nil {
				sources[gr] = &source{names: corev1.ResourceList{}}
			}
			sources[gr].names[name] = resource.Quantity{}
		}
	}
	for gr, s := range sources {
		s.objects, s.known = objects(gr)
	}
	for gr, s := range sources {
		for _, o := range s.objects {
			if quota.Matches(q, o) {
				out.Used = quota.Add(out.Used, quota.Mask(counter.Usage(gr, o), s.names))
			}
		}
	}
	for _, s := range sources {
		if s.known {
			continue
		}
		for name := range s.names {
			out.Used[name] = q.Status.Used[name].DeepCopy()
		}
	}
	return out
}

// zero is nothing, written in the format of the limit.
func zero(hard resource.Quantity) resource.Quantity {
	return *resource.NewQuantity(0, hard.Format)
}

// shrank says that a change of an object may have given something back.
func shrank(gr schema.GroupResource, obj, old any, counter quota.Counter) bool {
	switch obj.(type) {
	case *corev1.Pod, *corev1.Service, *corev1.PersistentVolumeClaim:
	default:
		return false
	}
	after := counter.Usage(gr, obj)
	for name, was := range counter.Usage(gr, old) {
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
		return !slices.Equal(quota.AttributesClasses(o), quota.AttributesClasses(old.(*corev1.PersistentVolumeClaim)))
	}
	return false
}

// freed is what a change of an object (nil: it is gone) gives back to a quota.
func freed(q *corev1.ResourceQuota, gr schema.GroupResource, obj, old any, counter quota.Counter) corev1.ResourceList {
	if !quota.Matches(q, old) {
		return nil
	}
	was, is := counter.Usage(gr, old), corev1.ResourceList{}
	if obj != nil && quota.Matches(q, obj) {
		is = counter.Usage(gr, obj)
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

// asksForDevices says that a pod asks for extended resources, which devices
// may serve that are counted by a claim too.
func asksForDevices(p *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for name := range list[i].Resources.Requests {
				if strings.Contains(string(name), "/") {
					return true
				}
			}
		}
	}
	return false
}
