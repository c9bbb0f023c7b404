package apiserver

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// standardFinalizers need no domain.
var standardFinalizers = []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}

// checkFinalizers checks what the validation of object metadata does not: on
// update the names' form, and for most built-in kinds that others than the
// standard ones are qualified by a domain.
func (r *resource) checkFinalizers(m metav1.Object, update bool) field.ErrorList {
	names := m.GetFinalizers()
	if len(names) == 0 {
		return nil
	}
	var errs field.ErrorList
	path := field.NewPath("metadata", "finalizers")
	for i, f := range names {
		if update {
			errs = append(errs, apivalidation.ValidateFinalizerName(f, path)...)
		}
		if !r.custom && !r.Strategy.AnyFinalizer && !strings.Contains(f, "/") && !slices.Contains(standardFinalizers, f) {
			errs = append(errs, field.Invalid(path.Index(i), f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}
