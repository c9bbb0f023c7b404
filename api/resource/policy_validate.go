package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePolicy checks how much of a shared capacity a request may take
// (KEP-5075): a default, and a list or a range of what is valid.
func validatePolicy(most resource.Quantity, r *resourcev1.CapacityRequestPolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case len(r.ValidValues) > 0 && r.ValidRange != nil:
		errs = append(errs, field.Forbidden(path, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`))
	case r.Default == nil && (len(r.ValidValues) > 0 || r.ValidRange != nil):
		errs = append(errs, field.Required(path.Child("default"), "required when validValues or validRange is defined"))
	}
	if r.Default != nil && r.Default.Cmp(most) > 0 {
		errs = append(errs, field.Invalid(path.Child("default"), r.Default.String(), "default is larger than capacity value: "+most.String()))
	}
	for i := range r.ValidValues {
		if r.ValidValues[i].Cmp(most) > 0 {
			errs = append(errs, field.Invalid(path.Child("validValues").Index(i), r.ValidValues[i].String(), "option is larger than capacity value: "+most.String()))
		}
	}
	if r.ValidRange != nil {
		errs = append(errs, validateRange(most, r, path.Child("validRange"))...)
	}
	return errs
}

func validateRange(most resource.Quantity, r *resourcev1.CapacityRequestPolicy, path *field.Path) field.ErrorList {
	v := r.ValidRange
	if v.Min == nil {
		return field.ErrorList{field.Required(path.Child("min"), "required when validRange is defined")}
	}
	var errs field.ErrorList
	if v.Min.Cmp(most) > 0 {
		errs = append(errs, field.Invalid(path.Child("min"), v.Min.String(), "min is larger than capacity value: "+most.String()))
	}
	if r.Default != nil && r.Default.Cmp(*v.Min) < 0 {
		errs = append(errs, field.Invalid(path.Child("default"), r.Default.String(), "default is less than min: "+v.Min.String()))
	}
	if v.Max != nil {
		if v.Min.Cmp(*v.Max) > 0 {
			errs = append(errs, field.Invalid(path.Child("min"), v.Min.String(), "min is larger than max: "+v.Max.String()))
		}
		if v.Max.Cmp(most) > 0 {
			errs = append(errs, field.Invalid(path.Child("max"), v.Max.String(), "max is larger than capacity value: "+most.String()))
		}
	}
	return errs
}
