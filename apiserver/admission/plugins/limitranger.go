package plugins

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/component-helpers/resource"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// limitRanger gives containers the default requests and limits of their
// namespace's LimitRanges and refuses what is out of their bounds.
func limitRanger(d deps) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), admit: d.limitAdmit, validate: d.limitValidate}
}

func (d deps) limitAdmit(ctx context.Context, a *admission.Attributes) error {
	pod, ok := newPod(a)
	if !ok || a.Operation != admission.Create {
		return nil
	}
	ranges, err := list(ctx, client.LimitRanges.In(d.door, a.Namespace))
	if err != nil {
		return forbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.Operation, a.Resource))
	}
	for _, lr := range ranges {
		setDefaults(lr, pod)
	}
	return nil
}

func (d deps) limitValidate(ctx context.Context, a *admission.Attributes) error {
	var check func(*corev1.LimitRange) []error
	switch obj := a.Object.(type) {
	case *corev1.Pod:
		// All else about a pod's resources is immutable.
		if !(a.Subresource == "" && a.Operation == admission.Create) && a.Subresource != "resize" {
			return nil
		}
		check = func(lr *corev1.LimitRange) []error { return checkPod(lr, obj) }
	case *corev1.PersistentVolumeClaim:
		if a.Subresource != "" {
			return nil
		}
		check = func(lr *corev1.LimitRange) []error { return checkClaim(lr, obj) }
	default:
		return nil
	}
	ranges, err := list(ctx, client.LimitRanges.In(d.door, a.Namespace))
	if err != nil {
		return forbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.Operation, a.Resource))
	}
	for _, lr := range ranges {
		if errs := check(lr); len(errs) > 0 {
			return forbidden(a, utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

// setDefaults fills in what the containers leave open and notes it in an
// annotation.
func setDefaults(lr *corev1.LimitRange, pod *corev1.Pod) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range lr.Spec.Limits {
		if l := &lr.Spec.Limits[i]; l.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, l.DefaultRequest)
			maps.Copy(limits, l.Default)
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return
	}
	var notes []string
	for kind, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		what := [...]string{"container", "init container"}[kind]
		for i := range containers {
			c := &containers[i]
			for _, set := range []struct {
				word string
				to   *corev1.ResourceList
				from corev1.ResourceList
			}{{"request", &c.Resources.Requests, requests}, {"limit", &c.Resources.Limits, limits}} {
				if names := fill(set.to, set.from); len(names) > 0 {
					notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(names, ", "), set.word, what, c.Name))
				}
			}
		}
	}
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations["kubernetes.io/limit-ranger"] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
}

func fill(to *corev1.ResourceList, from corev1.ResourceList) []string {
	var set []string
	for name, q := range from {
		if _, ok := (*to)[name]; ok {
			continue
		}
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[name] = q.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

func checkPod(lr *corev1.LimitRange, pod *corev1.Pod) []error {
	var errs []error
	for i := range lr.Spec.Limits {
		l := &lr.Spec.Limits[i]
		switch l.Type {
		case corev1.LimitTypeContainer:
			for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for j := range list {
					errs = append(errs, checkLimit(l, list[j].Resources.Requests, list[j].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			o := resource.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, checkLimit(l, resource.PodRequests(pod, o), resource.PodLimits(pod, o))...)
		}
	}
	return errs
}

func checkClaim(lr *corev1.LimitRange, pvc *corev1.PersistentVolumeClaim) []error {
	var errs []error
	for i := range lr.Spec.Limits {
		l := &lr.Spec.Limits[i]
		if l.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		for _, name := range sorted(l.Min) {
			errs = append(errs, checkMin(l, name, pvc.Spec.Resources.Requests, nil))
		}
		for _, name := range sorted(l.Max) {
			limit := l.Max[name]
			if q, ok := pvc.Spec.Resources.Requests[name]; !ok {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, l.Type, limit.String()))
			} else if q.Cmp(limit) > 0 {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, l.Type, limit.String(), q.String()))
			}
		}
	}
	return drop(errs)
}

func sorted(l corev1.ResourceList) []corev1.ResourceName { return slices.Sorted(maps.Keys(l)) }

func drop(errs []error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func checkLimit(l *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	for _, name := range sorted(l.Min) {
		errs = append(errs, checkMin(l, name, requests, limits))
	}
	for _, name := range sorted(l.Max) {
		errs = append(errs, checkMax(l, name, requests, limits))
	}
	for _, name := range sorted(l.MaxLimitRequestRatio) {
		errs = append(errs, checkRatio(l, name, requests, limits))
	}
	return drop(errs)
}

func checkMin(l *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	floor := l.Min[name]
	req, hasReq := requests[name]
	lim, hasLim := limits[name]
	switch {
	case !hasReq:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, l.Type, floor.String())
	case req.Cmp(floor) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, l.Type, floor.String(), req.String())
	case hasLim && lim.Cmp(floor) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, l.Type, floor.String(), lim.String())
	}
	return nil
}

func checkMax(l *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	ceiling := l.Max[name]
	req, hasReq := requests[name]
	lim, hasLim := limits[name]
	switch {
	case !hasLim:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, l.Type, ceiling.String())
	case lim.Cmp(ceiling) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, l.Type, ceiling.String(), lim.String())
	case hasReq && req.Cmp(ceiling) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, l.Type, ceiling.String(), req.String())
	}
	return nil
}

func checkRatio(l *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	most := l.MaxLimitRequestRatio[name]
	req, hasReq := requests[name]
	lim, hasLim := limits[name]
	switch {
	case !hasReq || req.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, l.Type, most.String())
	case !hasLim || lim.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, l.Type, most.String())
	}
	ratio := asFloat(lim) / asFloat(req)
	if ratio > asFloat(most) {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, l.Type, most.String(), ratio)
	}
	return nil
}

func asFloat(q apiresource.Quantity) float64 { return q.AsApproximateFloat64() }
