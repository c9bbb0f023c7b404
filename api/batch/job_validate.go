package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
)

// The limits of a job, so that its status stays small.
const (
	maxParallelism          = 100_000
	manyCompletions         = 100_000
	maxFailedIndexesOfMany  = 10_000
	maxParallelismOfMany    = 10_000
	maxPolicyRules          = 20
	maxExitCodes            = 255
	maxPodConditions        = 20
	maxManagedBy            = 63
	maxSucceededIndexesText = 64 * 1024
)

// validateJob checks a new job.
func validateJob(j, old *batchv1.Job) field.ErrorList {
	var oldSpec *batchv1.JobSpec
	if old != nil {
		oldSpec = &old.Spec
	}
	errs := validateGeneratedSelector(j, old)
	errs = append(errs, validateSpec(&j.Spec, oldSpec, field.NewPath("spec"))...)
	errs = append(errs, validateSelector(&j.Spec, oldSpec, field.NewPath("spec"))...)
	if m, n := j.Spec.CompletionMode, j.Spec.Completions; m != nil && *m == batchv1.IndexedCompletion && n != nil && *n > 0 {
		// The last index gives the longest host name.
		host := fmt.Sprintf("%s-%d", j.Name, *n-1)
		if msgs := validation.IsDNS1123Label(host); len(msgs) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name, fmt.Sprintf("will not able to create pod with invalid DNS label: %s", host)))
		}
	}
	return errs
}

// validateGeneratedSelector checks that labels and selector are those that the
// server generates, where it does. A job that was made before the labels had a
// domain (1.27) need not have them with one.
func validateGeneratedSelector(j, old *batchv1.Job) field.ErrorList {
	if m := j.Spec.ManualSelector; m != nil && *m || j.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	if j.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	expected := labels.Set{
		batchv1.JobNameLabel: j.Name, batchv1.ControllerUidLabel: string(j.UID),
		legacyNameLabel: j.Name, legacyUIDLabel: string(j.UID),
	}
	keys := []string{legacyUIDLabel, legacyNameLabel, batchv1.ControllerUidLabel, batchv1.JobNameLabel}
	if old != nil && old.Spec.Template.Labels[batchv1.JobNameLabel] == "" {
		keys = keys[:2]
	}
	for _, key := range keys {
		at := field.NewPath("spec", "template", "metadata", "labels").Key(key)
		switch got, ok := j.Spec.Template.Labels[key]; {
		case !ok:
			errs = append(errs, field.Required(at, fmt.Sprintf("must be '%s'", expected[key])))
		case got != expected[key]:
			errs = append(errs, field.Invalid(at, j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", expected[key])))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(expected) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

func notMatching(s *batchv1.JobSpec, path *field.Path) *field.Error {
	return field.Invalid(path.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
}

// validateSelector checks the selector against the template.
func validateSelector(s, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var oldSelector *metav1.LabelSelector
	if old != nil {
		oldSelector = old.Selector
	}
	if s.Selector == nil {
		// What has no selector matches nothing.
		return field.ErrorList{field.Required(path.Child("selector"), ""), notMatching(s, path)}
	}
	errs := check.LabelSelector(s.Selector, oldSelector, path.Child("selector"))
	if parsed, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !parsed.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, notMatching(s, path))
	}
	return errs
}

// validateSpec checks what jobs and the templates of cron jobs have in common;
// old is nil for a new object.
func validateSpec(s, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	opts := podspec.Options{}
	if old != nil {
		opts = podspec.ForUpdate(&old.Template.Spec)
	}
	errs := validateCounts(s, path)
	errs = append(errs, validateIndexed(s, path)...)
	if s.ManagedBy != nil {
		at := path.Child("managedBy")
		errs = append(errs, validation.IsDomainPrefixedPath(at, *s.ManagedBy)...)
		if len(*s.ManagedBy) > maxManagedBy {
			errs = append(errs, field.TooLong(at, "" /*unused*/, maxManagedBy))
		}
	}
	if s.PodFailurePolicy != nil {
		errs = append(errs, validateFailurePolicy(s, path.Child("podFailurePolicy"))...)
	}
	if s.SuccessPolicy != nil {
		errs = append(errs, validateSuccessPolicy(s, path.Child("successPolicy"))...)
	}
	if s.PodReplacementPolicy != nil {
		at := path.Child("podReplacementPolicy")
		if s.PodFailurePolicy != nil {
			errs = append(errs, check.OneOf(*s.PodReplacementPolicy, at, batchv1.Failed)...)
		} else {
			errs = append(errs, check.OneOf(*s.PodReplacementPolicy, at, batchv1.Failed, batchv1.TerminatingOrFailed)...)
		}
	}
	errs = append(errs, podspec.ValidateTemplate(&s.Template, path.Child("template"), opts)...)
	return append(errs, validateRestartPolicy(s, path.Child("template", "spec", "restartPolicy"))...)
}

func validateCounts(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	errs := check.NonNegativePtr(s.Parallelism, path.Child("parallelism"))
	errs = append(errs, check.NonNegativePtr(s.Completions, path.Child("completions"))...)
	errs = append(errs, check.NonNegativePtr(s.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	errs = append(errs, check.NonNegativePtr(s.BackoffLimit, path.Child("backoffLimit"))...)
	errs = append(errs, check.NonNegativePtr(s.TTLSecondsAfterFinished, path.Child("ttlSecondsAfterFinished"))...)
	errs = append(errs, check.NonNegativePtr(s.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	if s.MaxFailedIndexes != nil {
		errs = append(errs, check.NonNegativePtr(s.MaxFailedIndexes, path.Child("maxFailedIndexes"))...)
		if s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
		}
	}
	return errs
}

// validateIndexed checks the completion mode and the fields that need it.
func validateIndexed(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	// The template of a cron job may leave the mode open.
	mode := batchv1.NonIndexedCompletion
	var errs field.ErrorList
	if s.CompletionMode != nil {
		mode = *s.CompletionMode
		errs = check.OneOf(mode, path.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	}
	if mode == batchv1.NonIndexedCompletion {
		const needs = "requires indexed completion mode"
		if n := s.BackoffLimitPerIndex; n != nil {
			errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *n, needs))
		}
		if n := s.MaxFailedIndexes; n != nil {
			errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *n, needs))
		}
	}
	if mode != batchv1.IndexedCompletion {
		return errs
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	if p := s.Parallelism; p != nil && *p > maxParallelism {
		errs = append(errs, field.Invalid(path.Child("parallelism"), *p, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxParallelism, batchv1.IndexedCompletion)))
	}
	failed := path.Child("maxFailedIndexes")
	if s.Completions != nil && s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > *s.Completions {
		errs = append(errs, field.Invalid(failed, *s.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	if n := s.MaxFailedIndexes; n != nil && *n > maxParallelism {
		errs = append(errs, field.Invalid(failed, *n, fmt.Sprintf("must be less than or equal to %d", maxParallelism)))
	}
	if s.Completions == nil || *s.Completions <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return errs
	}
	const ofMany = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	if p := s.Parallelism; p != nil && *p > maxParallelismOfMany {
		errs = append(errs, field.Invalid(path.Child("parallelism"), *p, fmt.Sprintf(ofMany, maxParallelismOfMany, manyCompletions)))
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(failed, fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
	} else if *s.MaxFailedIndexes > maxFailedIndexesOfMany {
		errs = append(errs, field.Invalid(failed, *s.MaxFailedIndexes, fmt.Sprintf(ofMany, maxFailedIndexesOfMany, manyCompletions)))
	}
	return errs
}

func validateRestartPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	switch p := s.Template.Spec.RestartPolicy; p {
	case corev1.RestartPolicyAlways:
		return field.ErrorList{field.Required(path, `valid values: "OnFailure", "Never"`)}
	case corev1.RestartPolicyOnFailure:
		if s.PodFailurePolicy != nil {
			return field.ErrorList{field.Invalid(path, p, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))}
		}
	case corev1.RestartPolicyNever:
	default:
		return field.ErrorList{field.NotSupported(path, p, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})}
	}
	return nil
}

// quoted lists values as upstream's texts do: "A" "B".
func quoted[T ~string](values ...T) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = strconv.Quote(string(v))
	}
	return strings.Join(out, " ")
}

func requiredOneOf[T ~string](v T, path *field.Path, supported ...T) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "valid values: ["+quoted(supported...)+"]")}
	}
	return check.OneOf(v, path, supported...)
}

func validateFailurePolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	rules := path.Child("rules")
	if n := len(s.PodFailurePolicy.Rules); n > maxPolicyRules {
		return field.ErrorList{field.TooMany(rules, n, maxPolicyRules)}
	}
	containers := map[string]bool{}
	for _, list := range [][]corev1.Container{s.Template.Spec.Containers, s.Template.Spec.InitContainers} {
		for i := range list {
			containers[list[i].Name] = true
		}
	}
	var errs field.ErrorList
	for i := range s.PodFailurePolicy.Rules {
		errs = append(errs, validateFailureRule(s, &s.PodFailurePolicy.Rules[i], containers, rules.Index(i))...)
	}
	return errs
}

func validateFailureRule(s *batchv1.JobSpec, r *batchv1.PodFailurePolicyRule, containers map[string]bool, path *field.Path) field.ErrorList {
	errs := requiredOneOf(r.Action, path.Child("action"), batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
	if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(path.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if r.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(r.OnExitCodes, containers, path.Child("onExitCodes"))...)
	}
	if n := len(r.OnPodConditions); n > maxPodConditions {
		errs = append(errs, field.TooMany(path.Child("onPodConditions"), n, maxPodConditions))
	} else {
		for i, c := range r.OnPodConditions {
			at := path.Child("onPodConditions").Index(i)
			errs = append(errs, check.Each(at.Child("type"), c.Type, validation.IsQualifiedName(string(c.Type)))...)
			errs = append(errs, requiredOneOf(c.Status, at.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
	}
	switch {
	case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

func validateExitCodes(e *batchv1.PodFailurePolicyOnExitCodesRequirement, containers map[string]bool, path *field.Path) field.ErrorList {
	errs := requiredOneOf(e.Operator, path.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if e.ContainerName != nil && !containers[*e.ContainerName] {
		errs = append(errs, field.Invalid(path.Child("containerName"), *e.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := path.Child("values")
	switch n := len(e.Values); {
	case n == 0:
		return append(errs, field.Invalid(values, e.Values, "at least one value is required"))
	case n > maxExitCodes:
		return append(errs, field.TooMany(values, n, maxExitCodes))
	}
	seen := map[int32]bool{}
	for i, v := range e.Values {
		if e.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		seen[v] = true
	}
	if !slices.IsSorted(e.Values) {
		errs = append(errs, field.Invalid(values, e.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if s.CompletionMode == nil || *s.CompletionMode != batchv1.IndexedCompletion {
		return field.ErrorList{field.Invalid(path, *s.SuccessPolicy, "requires indexed completion mode")}
	}
	rules := path.Child("rules")
	switch n := len(s.SuccessPolicy.Rules); {
	case n == 0:
		return field.ErrorList{field.Required(rules, "at least one rules must be specified when the successPolicy is specified")}
	case n > maxPolicyRules:
		return field.ErrorList{field.TooMany(rules, n, maxPolicyRules)}
	}
	var errs field.ErrorList
	for i := range s.SuccessPolicy.Rules {
		r, at := &s.SuccessPolicy.Rules[i], rules.Index(i)
		if r.SucceededCount == nil && r.SucceededIndexes == nil {
			errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		var total int32
		if s.Completions != nil {
			total = *s.Completions
		}
		var named int32 // no index, where they cannot be read
		if r.SucceededIndexes != nil {
			n, err := countIndexes(*r.SucceededIndexes, total)
			if len(*r.SucceededIndexes) > maxSucceededIndexesText {
				errs = append(errs, field.TooLong(at.Child("succeededIndexes"), "" /*unused*/, maxSucceededIndexesText))
			}
			if err != nil {
				errs = append(errs, field.Invalid(at.Child("succeededIndexes"), *r.SucceededIndexes, fmt.Sprintf("error parsing succeededIndexes: %s", err)))
			} else {
				named = n
			}
		}
		if n := r.SucceededCount; n != nil {
			errs = append(errs, check.NonNegativePtr(n, at.Child("succeededCount"))...)
			if *n > total {
				errs = append(errs, field.Invalid(at.Child("succeededCount"), *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", total)))
			}
			if r.SucceededIndexes != nil && *n > named {
				errs = append(errs, field.Invalid(at.Child("succeededCount"), *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", named)))
			}
		}
	}
	return errs
}

// countIndexes parses "1,3-5,7" and counts the indexes, which must ascend
// and lie below completions.
func countIndexes(text string, completions int32) (int32, error) {
	if text == "" {
		return 0, nil
	}
	var total int32
	last := int64(-1)
	for _, interval := range strings.Split(text, ",") {
		if strings.Count(interval, "-") > 1 {
			return 0, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", interval)
		}
		lowText, highText, isRange := strings.Cut(interval, "-")
		low, err := strconv.ParseInt(lowText, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("cannot convert string to integer for index: %q", lowText)
		}
		high := low
		if isRange {
			if high, err = strconv.ParseInt(highText, 10, 32); err != nil {
				return 0, fmt.Errorf("cannot convert string to integer for index: %q", highText)
			}
			if low >= high {
				return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", low, high)
			}
		}
		if low <= last {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, low)
		}
		switch {
		case low >= int64(completions):
			return 0, fmt.Errorf("too large index: %q", lowText)
		case high >= int64(completions):
			return 0, fmt.Errorf("too large index: %q", highText)
		}
		total, last = total+int32(high-low+1), high
	}
	return total, nil
}

// warnings warns about the spec of a job or of a cron job's template, and about
// the name of a new object.
func warnings(o metav1.Object, s *batchv1.JobSpec, isNew bool, path *field.Path) []string {
	var out []string
	if isNew {
		out = podspec.NameWarnings(o.GetName(), podspec.PodNames)
	}
	out = append(out, podspec.Warnings(&s.Template, path.Child("template"))...)
	if s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion && s.Completions != nil && s.Parallelism != nil &&
		*s.Completions > manyCompletions && *s.Parallelism > maxParallelismOfMany {
		out = append(out, path.String()+": In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return out
}
