package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func namespace() *api.Kind {
	k := row("Namespace", "namespaces", "namespace", false, "namespaces", "ns")
	k.New, k.NewList = api.New[corev1.Namespace](), api.New[corev1.NamespaceList]()
	k.Verbs = []string{"create", "delete", "get", "list", "patch", "update", "watch"}
	k.Strategy = api.Strategy{
		Default: api.On(defaultNamespace),
		PrepareCreate: api.On(func(n *corev1.Namespace) {
			n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
			for _, f := range n.Spec.Finalizers {
				if f == corev1.FinalizerKubernetes {
					return
				}
			}
			n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
		}),
		PrepareUpdate: api.On2(func(n, old *corev1.Namespace) {
			n.Spec.Finalizers, n.Status = slices.Clone(old.Spec.Finalizers), *old.Status.DeepCopy()
		}),
		Validate: api.Check(func(n *corev1.Namespace) field.ErrorList {
			return validateFinalizerNames(n.Spec.Finalizers, field.NewPath("spec", "finalizers"))
		}),
		ValidateName:  apivalidation.NameIsDNSLabel,
		PrepareDelete: api.On(func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating }),
		Keep:          func(o runtime.Object) bool { return len(o.(*corev1.Namespace).Spec.Finalizers) > 0 },
	}
	k.Subresources = map[string]api.Subresource{
		"status": status(func(n, old *corev1.Namespace) { n.Spec = *old.Spec.DeepCopy() }, validateNamespaceStatus),
		"finalize": {Verbs: []string{"update"}, Object: &api.Strategy{
			PrepareUpdate: api.On2(func(n, old *corev1.Namespace) { n.Status = *old.Status.DeepCopy() }),
			ValidateUpdate: api.Check2(func(n, _ *corev1.Namespace) field.ErrorList {
				return validateFinalizerNames(n.Spec.Finalizers, field.NewPath("spec", "finalizers"))
			}),
		}},
	}
	selectable(k, func(n *corev1.Namespace) fields.Set {
		return fields.Set{"status.phase": string(n.Status.Phase)}
	}, "status.phase")
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(), printing.String("Status", "The status of the namespace"), printing.AgeColumn(),
	}
	k.Cells = api.Cells(func(n *corev1.Namespace) []any {
		return []any{n.Name, string(n.Status.Phase), printing.Age(n.CreationTimestamp)}
	})
	return k
}

// defaultNamespace labels a namespace with its own name, so that label
// selectors can name it.
func defaultNamespace(n *corev1.Namespace) {
	if n.Name == "" {
		return // generateName: the name comes before the defaults run again
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
	def(&n.Status.Phase, corev1.NamespaceActive)
}

func validateFinalizerNames(names []corev1.FinalizerName, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, n := range names {
		for _, msg := range validation.IsQualifiedName(string(n)) {
			errs = append(errs, field.Invalid(path, string(n), msg))
		}
		if n != corev1.FinalizerKubernetes && !qualified(string(n)) {
			errs = append(errs, field.Invalid(path, string(n), "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// validateNamespaceStatus ties the phase to the deletion timestamp.
func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	switch phase := n.Status.Phase; {
	case n.DeletionTimestamp.IsZero() && phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !n.DeletionTimestamp.IsZero() && phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
