package resource

import (
	"bytes"
	"encoding/json"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

func validateDeviceClass(c *resourcev1.DeviceClass) field.ErrorList {
	return validateClassSpec(&c.Spec, nil)
}

func validateDeviceClassUpdate(c, old *resourcev1.DeviceClass) field.ErrorList {
	return validateClassSpec(&c.Spec, &old.Spec)
}

// validateClassSpec checks a class; expressions that old has already are not
// measured again.
func validateClassSpec(s, old *resourcev1.DeviceClassSpec) field.ErrorList {
	path := field.NewPath("spec")
	stored := expressions{}
	if old != nil {
		stored.add(old.Selectors)
	}
	errs := validateSelectors(s.Selectors, stored, path.Child("selectors"))
	errs = append(errs, listed[resourcev1.DeviceClassConfiguration, string](s.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"), nil,
		func(c *resourcev1.DeviceClassConfiguration, p *field.Path) field.ErrorList {
			return validateConfiguration(&c.DeviceConfiguration, p)
		})...)
	if n := s.ExtendedResourceName; n != nil && !extendedResource(*n) {
		errs = append(errs, field.Invalid(path.Child("extendedResourceName"), *n, "must be a valid extended resource name"))
	}
	return errs
}

func validateClaim(c *resourcev1.ResourceClaim) field.ErrorList {
	return validateDevices(&c.Spec.Devices, field.NewPath("spec", "devices"))
}

func validateClaimUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	return immutable(c.Spec, old.Spec, field.NewPath("spec"))
}

func validateTemplate(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
	path := field.NewPath("spec")
	errs := check.TemplateMeta(&t.Spec.ObjectMeta, path.Child("metadata"))
	return append(errs, validateDevices(&t.Spec.Spec.Devices, path.Child("spec", "devices"))...)
}

func validateTemplateUpdate(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	return append(validateTemplate(t), immutable(t.Spec, old.Spec, field.NewPath("spec"))...)
}

func immutable(v, old any, path *field.Path) field.ErrorList {
	return check.Immutable(v, old, path)
}

// requestNames are the requests of a claim with their subrequests.
type requestNames map[string]map[string]bool

func namesOf(d *resourcev1.DeviceClaim) requestNames {
	names := requestNames{}
	for _, r := range d.Requests {
		names[r.Name] = map[string]bool{}
		for _, s := range r.FirstAvailable {
			names[r.Name][s.Name] = true
		}
	}
	return names
}

func (n requestNames) has(ref string) bool {
	request, sub, slash := strings.Cut(ref, "/")
	subs, ok := n[request]
	return ok && (!slash || subs[sub])
}

// hasResult is has for what was allocated, which names the subrequest where
// there are such.
func (n requestNames) hasResult(ref string) bool {
	request, _, slash := strings.Cut(ref, "/")
	return n.has(ref) && slash == (len(n[request]) > 0)
}

func validateDevices(d *resourcev1.DeviceClaim, path *field.Path) field.ErrorList {
	names := namesOf(d)
	errs := listed(d.Requests, resourcev1.DeviceRequestsMaxSize, path.Child("requests"),
		func(r *resourcev1.DeviceRequest) (string, any) { return r.Name, r.Name }, validateRequest)
	errs = append(errs, listed[resourcev1.DeviceConstraint, string](d.Constraints, resourcev1.DeviceConstraintsMaxSize, path.Child("constraints"), nil,
		func(c *resourcev1.DeviceConstraint, p *field.Path) field.ErrorList {
			return validateConstraint(c, names, p)
		})...)
	return append(errs, listed[resourcev1.DeviceClaimConfiguration, string](d.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"), nil,
		func(c *resourcev1.DeviceClaimConfiguration, p *field.Path) field.ErrorList {
			return append(validateRefs(c.Requests, names, p.Child("requests")), validateConfiguration(&c.DeviceConfiguration, p)...)
		})...)
}

func validateRequest(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := validateLabel(r.Name, path.Child("name"))
	const oneOf = "exactly one of `exactly` or `firstAvailable` is required"
	switch exactly, first := r.Exactly != nil, len(r.FirstAvailable) > 0; {
	case exactly && first:
		return append(errs, field.Invalid(path, nil, oneOf+", but multiple fields are set"))
	case exactly:
		e := r.Exactly
		return append(errs, validateAsked(asked{
			e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations,
		}, path.Child("exactly"))...)
	case first:
		return append(errs, listed(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, path.Child("firstAvailable"),
			func(s *resourcev1.DeviceSubRequest) (string, any) { return s.Name, s.Name },
			func(s *resourcev1.DeviceSubRequest, p *field.Path) field.ErrorList {
				return append(validateLabel(s.Name, p.Child("name")), validateAsked(asked{
					s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations,
				}, p)...)
			})...)
	}
	return append(errs, field.Required(path, oneOf))
}

// asked is what a request and a subrequest have in common.
type asked struct {
	class       string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
}

func validateAsked(a asked, path *field.Path) field.ErrorList {
	errs := validateRequiredName(a.class, path.Child("deviceClassName"))
	errs = append(errs, validateSelectors(a.selectors, nil, path.Child("selectors"))...)
	switch a.mode {
	case resourcev1.DeviceAllocationModeAll:
		if a.count != 0 {
			errs = append(errs, field.Invalid(path.Child("count"), a.count, "must not be specified when allocationMode is '"+string(a.mode)+"'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if a.count <= 0 {
			errs = append(errs, field.Invalid(path.Child("count"), a.count, "must be greater than zero"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("allocationMode"), a.mode,
			[]resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	errs = append(errs, validateTolerations(a.tolerations, path.Child("tolerations"))...)
	return errs
}

func validateTolerations(list []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	return listed[resourcev1.DeviceToleration, string](list, resourcev1.DeviceTolerationsMaxLength, path, nil, validateToleration)
}

func validateToleration(t *resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, path.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, validateLabelValue(t.Value, path.Child("value"))...)
	case "":
		errs = append(errs, field.Required(path.Child("operator"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("operator"), t.Operator,
			[]resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists}))
	}
	if t.Effect != "" {
		errs = append(errs, validateEffect(t.Effect, path.Child("effect"))...)
	}
	return errs
}

func validateEffect(e resourcev1.DeviceTaintEffect, path *field.Path) field.ErrorList {
	return check.OneOf(e, path, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)
}

func validateConstraint(c *resourcev1.DeviceConstraint, names requestNames, path *field.Path) field.ErrorList {
	errs := validateRefs(c.Requests, names, path.Child("requests"))
	switch match, distinct := c.MatchAttribute, c.DistinctAttribute; {
	case match != nil:
		errs = append(errs, validateFullyQualified(string(*match), path.Child("matchAttribute"))...)
	case distinct != nil:
		errs = append(errs, validateFullyQualified(string(*distinct), path.Child("distinctAttribute"))...)
	default:
		errs = append(errs, field.Required(path, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
	}
	return errs
}

// validateRefs checks references to requests of the claim.
func validateRefs(refs []string, names requestNames, path *field.Path) field.ErrorList {
	return listed(refs, resourcev1.DeviceRequestsMaxSize, path, self, func(ref *string, p *field.Path) field.ErrorList {
		errs := validateRef(*ref, p)
		if !names.has(*ref) {
			errs = append(errs, field.Invalid(p, *ref, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
		}
		return errs
	})
}

func validateRef(ref string, path *field.Path) field.ErrorList {
	parts := strings.Split(ref, "/")
	if len(parts) > 2 {
		return field.ErrorList{field.Invalid(path, ref, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'")}
	}
	var errs field.ErrorList
	for _, part := range parts {
		errs = append(errs, validateLabel(part, path)...)
	}
	return errs
}

func validateConfiguration(c *resourcev1.DeviceConfiguration, path *field.Path) field.ErrorList {
	if c.Opaque == nil {
		return field.ErrorList{field.Required(path.Child("opaque"), "")}
	}
	p := path.Child("opaque")
	errs := validateDriver(c.Opaque.Driver, p.Child("driver"))
	return append(errs, validateRaw(c.Opaque.Parameters, resourcev1.OpaqueParametersMaxLength, p.Child("parameters"))...)
}

// validateRaw wants a JSON object of limited size.
func validateRaw(raw runtime.RawExtension, most int, path *field.Path) field.ErrorList {
	if len(raw.Raw) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(raw.Raw) > most {
		return field.ErrorList{field.TooLong(path, "", most)}
	}
	var v any
	if err := json.Unmarshal(raw.Raw, &v); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", "error parsing data as JSON: "+err.Error())}
	}
	if v == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	if !bytes.HasPrefix(bytes.TrimSpace(raw.Raw), []byte("{")) {
		return field.ErrorList{field.Invalid(path, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}
