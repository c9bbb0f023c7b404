package autoscaling

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

const (
	maxStabilization = 3600
	maxPeriod        = 1800
)

// validateAutoscaler checks the spec; old is nil for a new object.
func validateAutoscaler(a, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	s, at := &a.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if s.MinReplicas != nil && *s.MinReplicas < 1 {
		errs = append(errs, field.Invalid(at.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 1"))
	}
	switch {
	case s.MaxReplicas == 0:
		errs = append(errs, field.Required(at.Child("maxReplicas"), "must be set and greater than 0"))
	case s.MaxReplicas < 0:
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateReference(&s.ScaleTargetRef, at.Child("scaleTargetRef"))...)
	if old == nil || old.Spec.ScaleTargetRef.APIVersion != s.ScaleTargetRef.APIVersion {
		errs = append(errs, validateTargetVersion(&s.ScaleTargetRef, at.Child("scaleTargetRef", "apiVersion"))...)
	}
	for i := range s.Metrics {
		errs = append(errs, validateMetric(&s.Metrics[i], at.Child("metrics").Index(i))...)
	}
	if b := s.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, at.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, at.Child("behavior", "scaleDown"))...)
	}
	return errs
}

// validateTargetVersion wants the group of what is scaled, which only
// replication controllers lack.
func validateTargetVersion(r *autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, r.APIVersion, err.Error())}
	case gv.Group == "" && r.Kind != "ReplicationController":
		return field.ErrorList{field.Invalid(at, r.APIVersion, "apiVersion must specify API group")}
	}
	return nil
}

func validateReference(r *autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{{"kind", r.Kind}, {"name", r.Name}} {
		if f.value == "" {
			errs = append(errs, field.Required(at.Child(f.name), ""))
			continue
		}
		errs = append(errs, check.Each(at.Child(f.name), f.value, path.IsValidPathSegmentName(f.value))...)
	}
	return errs
}

// validateMetric checks a metric: of its sources the first, which must be that
// of its type and alone.
func validateMetric(m *autoscalingv2.MetricSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	supported := check.OneOf(m.Type, at.Child("type"), autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
		autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)
	errs = append(errs, supported...)
	present := map[string]bool{}
	source := func(set bool, name string, check func(at *field.Path) field.ErrorList) {
		if !set {
			return
		}
		present[name] = true
		if len(present) == 1 {
			errs = append(errs, check(at.Child(name))...)
		}
	}
	source(m.Object != nil, "object", func(in *field.Path) field.ErrorList { return validateObjectMetric(m.Object, in) })
	source(m.External != nil, "external", func(in *field.Path) field.ErrorList { return validateExternalMetric(m.External, in) })
	source(m.Pods != nil, "pods", func(in *field.Path) field.ErrorList { return validatePodsMetric(m.Pods, in) })
	source(m.Resource != nil, "resource", func(in *field.Path) field.ErrorList {
		return validateUsage(string(m.Resource.Name), &m.Resource.Target, in)
	})
	source(m.ContainerResource != nil, "containerResource", func(in *field.Path) field.ErrorList {
		c := m.ContainerResource
		e := check.Each(in.Child("container"), c.Container, validation.IsDNS1123Label(c.Container))
		if c.Container == "" {
			e = field.ErrorList{field.Required(in.Child("container"), "must specify a container")}
		}
		return append(e, validateUsage(string(c.Name), &c.Target, in)...)
	})
	if len(supported) > 0 {
		return append(errs, supported...) // as upstream does, once for the source too
	}
	expected := strings.ToLower(string(m.Type[:1])) + string(m.Type[1:])
	if !present[expected] {
		errs = append(errs, field.Required(at.Child(expected), "must populate information for the given metric source"))
	}
	for _, name := range []string{"containerResource", "external", "object", "pods", "resource"} {
		if present[name] && name != expected {
			errs = append(errs, field.Forbidden(at.Child(name), "must populate the given metric source only"))
		}
	}
	return errs
}

func validatePodsMetric(p *autoscalingv2.PodsMetricSource, at *field.Path) field.ErrorList {
	errs := validateIdentifier(&p.Metric, at.Child("metric"))
	errs = append(errs, validateTarget(&p.Target, at.Child("target"))...)
	if p.Target.AverageValue == nil { // else what is wrong with it is said
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func validateObjectMetric(o *autoscalingv2.ObjectMetricSource, at *field.Path) field.ErrorList {
	errs := validateReference(&o.DescribedObject, at.Child("describedObject"))
	errs = append(errs, validateIdentifier(&o.Metric, at.Child("metric"))...)
	errs = append(errs, validateTarget(&o.Target, at.Child("target"))...)
	if o.Target.Value == nil && o.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func validateExternalMetric(e *autoscalingv2.ExternalMetricSource, at *field.Path) field.ErrorList {
	errs := validateIdentifier(&e.Metric, at.Child("metric"))
	errs = append(errs, validateTarget(&e.Target, at.Child("target"))...)
	switch {
	case e.Target.Value == nil && e.Target.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case e.Target.Value != nil && e.Target.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validateUsage(name string, t *autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), "must specify a resource name"))
	}
	errs = append(errs, validateTarget(t, at.Child("target"))...)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateIdentifier(m *autoscalingv2.MetricIdentifier, at *field.Path) field.ErrorList {
	if m.Name == "" {
		return field.ErrorList{field.Required(at.Child("name"), "must specify a metric name")}
	}
	return check.Each(at.Child("name"), m.Name, path.IsValidPathSegmentName(m.Name))
}

func validateTarget(t *autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	for _, q := range []struct {
		name  string
		value *resource.Quantity
	}{{"value", t.Value}, {"averageValue", t.AverageValue}} {
		if q.value != nil && q.value.Sign() != 1 {
			errs = append(errs, field.Invalid(at.Child(q.name), q.value, "must be positive"))
		}
	}
	if n := t.AverageUtilization; n != nil && *n < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), n, "must be greater than 0"))
	}
	return errs
}

func validateRules(r *autoscalingv2.HPAScalingRules, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if n := r.StabilizationWindowSeconds; n != nil {
		in := at.Child("stabilizationWindowSeconds")
		if *n < 0 {
			errs = append(errs, field.Invalid(in, *n, "must be greater than or equal to zero"))
		}
		if *n > maxStabilization {
			errs = append(errs, field.Invalid(in, *n, fmt.Sprintf("must be less than or equal to %v", maxStabilization)))
		}
	}
	if p := r.SelectPolicy; p != nil {
		errs = append(errs, check.OneOf(*p, at.Child("selectPolicy"), autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	policies := at.Child("policies")
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(policies, "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		in := policies.Index(i)
		errs = append(errs, check.OneOf(p.Type, in.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
		if p.Value <= 0 {
			errs = append(errs, field.Invalid(in.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(in.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		}
		if p.PeriodSeconds > maxPeriod {
			errs = append(errs, field.Invalid(in.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", maxPeriod)))
		}
	}
	if q := r.Tolerance; q != nil && q.Sign() < 0 {
		errs = append(errs, field.Invalid(at.Child("tolerance"), q.String(), "must be greater than or equal to 0").WithOrigin("minimum"))
	}
	return errs
}

func validateAutoscalerStatus(a, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	at := field.NewPath("status")
	return append(check.NonNegative(a.Status.CurrentReplicas, at.Child("currentReplicas")),
		check.NonNegative(a.Status.DesiredReplicas, at.Child("desiredReplicas"))...)
}
