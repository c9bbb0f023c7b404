// Package check holds the checks of single fields that kinds of several groups
// share: a value and its path go in, errors with upstream's types and texts
// come out.
package check

import (
	"slices"
	"strconv"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NonNegative refuses numbers below 0.
func NonNegative[N ~int32 | ~int64 | ~int](n N, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(n), path)
}

// NonNegativePtr is NonNegative for a number that may be absent.
func NonNegativePtr[N ~int32 | ~int64 | ~int](n *N, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	return NonNegative(*n, path)
}

// Immutable refuses a changed value.
func Immutable(new, old any, path *field.Path) field.ErrorList {
	if Equal(new, old) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, Shown(new), apivalidation.FieldImmutableErrorMsg).WithOrigin("immutable")}
}

// Equal compares API values: quantities by value, nil and empty alike.
func Equal(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }

// OneOf refuses a value that is not among the supported ones.
func OneOf[T ~string](v T, path *field.Path, supported ...T) field.ErrorList {
	if slices.Contains(supported, v) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, v, supported)}
}

// Subdomain refuses what is no DNS subdomain (RFC 1123).
func Subdomain(v string, path *field.Path) field.ErrorList {
	return Each(path, v, validation.IsDNS1123Subdomain(v))
}

// Each makes one error of every message.
func Each(path *field.Path, v any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, v, m))
	}
	return errs
}

// IntOrPercent refuses negative numbers and texts that are no percentage.
func IntOrPercent(v intstr.IntOrString, path *field.Path) field.ErrorList {
	switch v.Type {
	case intstr.Int:
		return NonNegative(v.IntValue(), path)
	case intstr.String:
		return Each(path, v, validation.IsValidPercent(v.StrVal))
	}
	return field.ErrorList{field.Invalid(path, v, "must be an integer or percentage (e.g '5%%')")}
}

// AtMost100Percent refuses percentages above 100; numbers pass.
func AtMost100Percent(v intstr.IntOrString, path *field.Path) field.ErrorList {
	if n, ok := percent(v); ok && n > 100 {
		return field.ErrorList{field.Invalid(path, v, "must not be greater than 100%")}
	}
	return nil
}

func percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, err == nil
}

// Amount is the number of an IntOrString, or that before its percent sign.
func Amount(v *intstr.IntOrString) int {
	if v == nil {
		return 0
	}
	if n, ok := percent(*v); ok {
		return n
	}
	return v.IntValue()
}

// LabelSelector checks a label selector. Values that are no label values are
// accepted if old (may be nil) has such too: they were stored before the check
// existed.
func LabelSelector(s, old *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{
		AllowInvalidLabelValueInSelector: InvalidSelectorValue(old),
	}, path)
}

// StoredSelector checks a label selector among several of one object; lax
// accepts values that are no label values, because such are stored there.
func StoredSelector(s *metav1.LabelSelector, lax bool, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lax}, path)
}

// InvalidSelectorValue says that an expression has a value that is no label
// value.
func InvalidSelectorValue(s *metav1.LabelSelector) bool {
	if s == nil {
		return false
	}
	for _, e := range s.MatchExpressions {
		for _, v := range e.Values {
			if len(validation.IsValidLabelValue(v)) > 0 {
				return true
			}
		}
	}
	return false
}

// EmptySelector says that a selector selects everything.
func EmptySelector(s *metav1.LabelSelector) bool {
	return s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0
}

// RequiredSelector checks the selector of a workload: it must be there, be
// valid and select something, or be refused with the text given. The parsed
// selector is nil if it does not parse.
func RequiredSelector(s, old *metav1.LabelSelector, empty, unparsable string, path *field.Path) (labels.Selector, field.ErrorList) {
	var errs field.ErrorList
	if s == nil {
		errs = append(errs, field.Required(path, ""))
	} else {
		errs = append(errs, LabelSelector(s, old, path)...)
		if EmptySelector(s) {
			errs = append(errs, field.Invalid(path, s, empty))
		}
	}
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, append(errs, field.Invalid(path, s, unparsable))
	}
	return parsed, errs
}

// NotMore refuses a number above a limit, such as more ready replicas than
// there are.
func NotMore(n, limit int32, path *field.Path, message string) field.ErrorList {
	if n <= limit {
		return nil
	}
	return field.ErrorList{field.Invalid(path, n, message)}
}

// NotDecremented refuses a count below the one stored.
func NotDecremented(n, old *int32, path *field.Path) field.ErrorList {
	if old == nil {
		return nil
	}
	var value int32
	if n != nil {
		value = *n
	}
	if value < *old {
		return field.ErrorList{field.Invalid(path, value, "cannot be decremented")}
	}
	return nil
}
