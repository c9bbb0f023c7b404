package resource

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	resourcev1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

func validateLabelValue(v string, path *field.Path) field.ErrorList {
	return check.Each(path, v, validation.IsValidLabelValue(v))
}

func validateSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	return validateSliceSpec(&s.Spec, nil)
}

// validateSliceUpdate keeps what a slice belongs to.
func validateSliceUpdate(s, old *resourcev1.ResourceSlice) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSliceSpec(&s.Spec, &old.Spec)
	errs = append(errs, check.Immutable(s.Spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name"))...)
	errs = append(errs, check.Immutable(s.Spec.Driver, old.Spec.Driver, path.Child("driver"))...)
	return append(errs, check.Immutable(s.Spec.NodeName, old.Spec.NodeName, path.Child("nodeName"))...)
}

func validateSliceSpec(s, old *resourcev1.ResourceSliceSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateDriver(s.Driver, path.Child("driver"))
	errs = append(errs, validateSlicePool(&s.Pool, path.Child("pool"))...)
	errs = append(errs, validateSliceNodes(s, old, path)...)

	if len(s.Devices) > 0 && len(s.SharedCounters) > 0 || s.Devices != nil && s.SharedCounters != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, advanced) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	perDevice := s.PerDeviceNodeSelection != nil && *s.PerDeviceNodeSelection
	errs = append(errs, listed(s.Devices, most, path.Child("devices"),
		func(d *resourcev1.Device) (string, any) { return d.Name, d.Name },
		func(d *resourcev1.Device, p *field.Path) field.ErrorList { return validateDevice(d, perDevice, p) })...)
	return append(errs, listed(s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, path.Child("sharedCounters"),
		func(c *resourcev1.CounterSet) (string, any) { return c.Name, c.Name },
		func(c *resourcev1.CounterSet, p *field.Path) field.ErrorList {
			return validateCounters(c.Name, c.Counters, "name", resourcev1.ResourceSliceMaxCountersPerCounterSet, p)
		})...)
}

// advanced says that a device costs more to look at than a plain one.
func advanced(d resourcev1.Device) bool {
	return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0
}

func validateSlicePool(p *resourcev1.ResourcePool, path *field.Path) field.ErrorList {
	errs := validatePool(p.Name, path.Child("name"))
	if p.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(path.Child("resourceSliceCount"), p.ResourceSliceCount, "must be greater than zero"))
	}
	if p.Generation < 0 {
		errs = append(errs, field.Invalid(path.Child("generation"), p.Generation, "must be greater than or equal to zero"))
	}
	return errs
}

// validateSliceNodes wants exactly one way of saying which nodes reach the
// devices.
func validateSliceNodes(s, old *resourcev1.ResourceSliceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	var set []string
	if s.NodeName != nil {
		if *s.NodeName == "" {
			if old == nil || old.NodeName == nil || *old.NodeName != "" {
				errs = append(errs, field.Invalid(path.Child("nodeName"), *s.NodeName, "must be either unset or set to a non-empty string"))
			}
		} else {
			set = append(set, "`nodeName`")
			errs = append(errs, check.Subdomain(*s.NodeName, path.Child("nodeName"))...)
		}
	}
	if s.NodeSelector != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, validateOneTerm(s.NodeSelector, path.Child("nodeSelector"))...)
	}
	for _, f := range []struct {
		name  string
		value *bool
	}{{"allNodes", s.AllNodes}, {"perDeviceNodeSelection", s.PerDeviceNodeSelection}} {
		switch {
		case f.value == nil:
		case *f.value:
			set = append(set, "`"+f.name+"`")
		default:
			errs = append(errs, field.Invalid(path.Child(f.name), false, "must be either unset or set to true"))
		}
	}
	const oneOf = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(set) {
	case 0:
		errs = append(errs, field.Required(path, oneOf))
	case 1:
	default:
		errs = append(errs, field.Invalid(path, "{"+strings.Join(set, ", ")+"}", oneOf+", but multiple fields are set"))
	}
	return errs
}

func validateDevice(d *resourcev1.Device, perDevice bool, path *field.Path) field.ErrorList {
	errs := validateLabel(d.Name, path.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(path, n, "the total number of attributes and capacities must not exceed 32"))
	}
	errs = append(errs, validateAttributes(d.Attributes, path.Child("attributes"))...)
	errs = append(errs, validateCapacity(d, path.Child("capacity"))...)
	errs = append(errs, listed[resourcev1.DeviceTaint, string](d.Taints, resourcev1.DeviceTaintsMaxLength, path.Child("taints"), nil, validateTaint)...)
	errs = append(errs, listed(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, path.Child("consumesCounters"),
		func(c *resourcev1.DeviceCounterConsumption) (string, any) { return c.CounterSet, c.CounterSet },
		func(c *resourcev1.DeviceCounterConsumption, p *field.Path) field.ErrorList {
			return validateCounters(c.CounterSet, c.Counters, "counterSet", resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, p)
		})...)
	errs = append(errs, validateDeviceNodes(d, perDevice, path)...)
	return append(errs, validateDeviceBinding(d, path)...)
}

func validateDeviceNodes(d *resourcev1.Device, perDevice bool, path *field.Path) field.ErrorList {
	const oneOf = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	var errs field.ErrorList
	var set []string
	if d.NodeName != nil {
		if *d.NodeName == "" {
			errs = append(errs, field.Invalid(path.Child("nodeName"), "", "must not be empty"))
		} else {
			errs = append(errs, check.Subdomain(*d.NodeName, path.Child("nodeName"))...)
			set = append(set, "`nodeName`")
		}
	}
	if d.NodeSelector != nil {
		errs = append(errs, validateOneTerm(d.NodeSelector, path.Child("nodeSelector"))...)
		set = append(set, "`nodeSelector`")
	}
	if d.AllNodes != nil {
		if *d.AllNodes {
			set = append(set, "`allNodes`")
		} else {
			errs = append(errs, field.Invalid(path.Child("allNodes"), false, "must be either unset or set to true"))
		}
	}
	switch {
	case !perDevice && len(set) > 0:
		errs = append(errs, field.Invalid(path, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
	case perDevice && len(set) == 0:
		errs = append(errs, field.Required(path, oneOf))
	case perDevice && len(set) > 1:
		errs = append(errs, field.Invalid(path, "{"+strings.Join(set, ", ")+"}", oneOf))
	}
	return errs
}

func validateDeviceBinding(d *resourcev1.Device, path *field.Path) field.ErrorList {
	errs := validateBinding(d.BindingConditions, resourcev1.BindingConditionsMaxSize, path.Child("bindingConditions"))
	errs = append(errs, validateBinding(d.BindingFailureConditions, resourcev1.BindingFailureConditionsMaxSize, path.Child("bindingFailureConditions"))...)
	switch conditions, failures := len(d.BindingConditions) > 0, len(d.BindingFailureConditions) > 0; {
	case conditions && !failures:
		errs = append(errs, field.Invalid(path.Child("bindingFailureConditions"), d.BindingFailureConditions, "bindingFailureConditions are required to use bindingConditions"))
	case failures && !conditions:
		errs = append(errs, field.Invalid(path.Child("bindingConditions"), d.BindingConditions, "bindingConditions are required to use bindingFailureConditions"))
	}
	return errs
}

func validateAttributes(attributes map[resourcev1.QualifiedName]resourcev1.DeviceAttribute, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		errs = append(errs, validateQualified(string(name), path)...)
		errs = append(errs, validateAttribute(attributes[name], path.Key(string(name)))...)
	}
	return errs
}

func validateAttribute(a resourcev1.DeviceAttribute, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	if a.IntValue != nil {
		n++
	}
	if a.BoolValue != nil {
		n++
	}
	if a.StringValue != nil {
		n++
		if len(*a.StringValue) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(path.Child("string"), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	if a.VersionValue != nil {
		n++
		p := path.Child("version")
		if _, err := semver.Parse(*a.VersionValue); err != nil {
			errs = append(errs, field.Invalid(p, *a.VersionValue, "must be a string compatible with semver.org spec 2.0.0"))
		}
		if len(*a.VersionValue) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(p, "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	const one = "exactly one value must be specified"
	switch n {
	case 0:
		errs = append(errs, field.Invalid(path, "", one))
	case 1:
	default:
		errs = append(errs, field.Invalid(path, check.Shown(a), one))
	}
	return errs
}

func validateCapacity(d *resourcev1.Device, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	multiple := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
	for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
		errs = append(errs, validateQualified(string(name), path)...)
		policy := d.Capacity[name].RequestPolicy
		if policy == nil {
			continue
		}
		p := path.Key(string(name)).Child("requestPolicy")
		if !multiple {
			errs = append(errs, field.Forbidden(p, "allowMultipleAllocations must be true"))
			continue
		}
		errs = append(errs, validatePolicy(d.Capacity[name].Value, policy, p)...)
	}
	return errs
}

func validateTaint(t *resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabelName(t.Key, path.Child("key"))
	errs = append(errs, validateLabelValue(t.Value, path.Child("value"))...)
	if t.Effect == "" {
		return append(errs, field.Required(path.Child("effect"), ""))
	}
	return append(errs, validateEffect(t.Effect, path.Child("effect"))...)
}

func validateCounters(name string, counters map[string]resourcev1.Counter, nameField string, most int, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(path.Child(nameField), ""))
	} else {
		errs = append(errs, validateLabel(name, path.Child(nameField))...)
	}
	p := path.Child("counters")
	switch {
	case len(counters) == 0:
		return append(errs, field.Required(p, ""))
	case len(counters) > most:
		errs = append(errs, field.TooMany(p, len(counters), most))
	}
	for _, c := range slices.Sorted(maps.Keys(counters)) {
		errs = append(errs, validateLabel(c, p)...)
	}
	return errs
}

// sliceWarnings tell drivers that their names should be lower case.
func sliceWarnings(s *resourcev1.ResourceSlice) []string {
	return driverWarnings(nil, s.Spec.Driver, field.NewPath("spec", "driver"))
}

func driverWarnings(warnings []string, driver string, path *field.Path) []string {
	if driver == strings.ToLower(driver) {
		return warnings
	}
	return append(warnings, fmt.Sprintf("%s: driver names should be lowercase; %q contains uppercase characters", path, driver))
}
