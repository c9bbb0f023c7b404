package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/podspec"
)

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	types := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, path := &l.Spec.Limits[i], specPath.Child("limits").Index(i)
		errs = append(errs, validateLimitType(item.Type, path.Child("type"))...)
		if types.Has(item.Type) {
			errs = append(errs, field.Duplicate(path.Child("type"), item.Type))
		}
		types.Insert(item.Type)
		errs = append(errs, validateLimits(item, path)...)
	}
	return errs
}

func validateLimitType(t corev1.LimitType, path *field.Path) field.ErrorList {
	if errs := invalid(path, t, validation.IsQualifiedName(string(t))); len(errs) > 0 {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	if !strings.Contains(string(t), "/") {
		return field.ErrorList{field.Invalid(path, t, "must be a standard limit type or fully qualified")}
	}
	return nil
}

func validateLimits(item *corev1.LimitRangeItem, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	lists := []struct {
		name string
		list corev1.ResourceList
	}{{"max", item.Max}, {"min", item.Min}, {"default", item.Default}, {"defaultRequest", item.DefaultRequest}, {"maxLimitRequestRatio", item.MaxLimitRequestRatio}}
	names := sets.New[corev1.ResourceName]()
	for _, l := range lists {
		if item.Type == corev1.LimitTypePod && (l.name == "default" || l.name == "defaultRequest") {
			if len(l.list) > 0 {
				errs = append(errs, field.Forbidden(path.Child(l.name), "may not be specified when `type` is 'Pod'"))
			}
			continue
		}
		for _, name := range sets.List(sets.KeySet(l.list)) {
			names.Insert(name)
			p := path.Child(l.name).Key(string(name))
			errs = append(errs, validateLimitName(item.Type, name, p)...)
			errs = append(errs, podspec.ValidateInteger(name, l.list[name], p)...)
		}
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, min := item.Min[corev1.ResourceStorage]
		_, max := item.Max[corev1.ResourceStorage]
		if !min && !max {
			errs = append(errs, field.Required(path.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	for _, name := range sets.List(names) {
		errs = append(errs, validateLimit(item, name, path)...)
	}
	return errs
}

func validateLimitName(t corev1.LimitType, name corev1.ResourceName, path *field.Path) field.ErrorList {
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer:
		return podspec.ValidateResourceName(name, path)
	}
	errs := invalid(path, name, validation.IsQualifiedName(string(name)))
	if len(errs) > 0 || strings.Contains(string(name), "/") || t != corev1.LimitTypePersistentVolumeClaim {
		return errs
	}
	standard := name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || podspec.IsHugePages(name)
	if name != corev1.ResourceStorage && !standard {
		return field.ErrorList{field.Invalid(path, name, "must be a standard resource type or fully qualified")}
	}
	return nil
}

// validateLimit checks that the values of one resource are in order: min,
// default request, default, max.
func validateLimit(item *corev1.LimitRangeItem, name corev1.ResourceName, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	order := func(child string, lo, hi corev1.ResourceList, loWord, hiWord string) {
		a, okA := lo[name]
		b, okB := hi[name]
		if !okA || !okB || a.Cmp(b) <= 0 {
			return
		}
		value := a
		if child != "min" && loWord == "min" || child == "default" {
			value = b
		}
		if child == "default" && loWord == "min" {
			value = a
		}
		errs = append(errs, field.Invalid(path.Child(child).Key(string(name)), value, fmt.Sprintf("%s value %s is greater than %s value %s", loWord, a.String(), hiWord, b.String())))
	}
	order("min", item.Min, item.Max, "min", "max")
	if item.Type == corev1.LimitTypePod {
		return append(errs, validateRatio(item, name, path)...)
	}
	order("defaultRequest", item.Min, item.DefaultRequest, "min", "default request")
	order("defaultRequest", item.DefaultRequest, item.Max, "default request", "max")
	order("defaultRequest", item.DefaultRequest, item.Default, "default request", "default limit")
	order("default", item.Min, item.Default, "min", "default")
	order("default", item.Default, item.Max, "default", "max")
	d, okD := item.Default[name]
	r, okR := item.DefaultRequest[name]
	if okD && okR && (!podspec.IsNative(name) || podspec.IsHugePages(name)) && d.Cmp(r) != 0 {
		errs = append(errs, field.Invalid(path.Child("defaultRequest").Key(string(name)), r, fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", d.String(), r.String(), name)))
	}
	return append(errs, validateRatio(item, name, path)...)
}

func validateRatio(item *corev1.LimitRangeItem, name corev1.ResourceName, path *field.Path) field.ErrorList {
	ratio, ok := item.MaxLimitRequestRatio[name]
	if !ok {
		return nil
	}
	p := path.Child("maxLimitRequestRatio").Key(string(name))
	var errs field.ErrorList
	if ratio.Cmp(resource.MustParse("1")) < 0 {
		errs = append(errs, field.Invalid(p, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	min, okMin := item.Min[name]
	max, okMax := item.Max[name]
	if okMin && okMax && min.Sign() != 0 {
		most := float64(max.Value()) / float64(min.Value())
		if name == corev1.ResourceCPU {
			most = float64(max.MilliValue()) / float64(min.MilliValue())
		}
		if float64(ratio.MilliValue())/1000 > most {
			errs = append(errs, field.Invalid(p, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most)))
		}
	}
	return errs
}
