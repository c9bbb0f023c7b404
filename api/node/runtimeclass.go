package node

import (
	"maps"
	"slices"

	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"

	corev1 "k8s.io/api/core/v1"
)

func runtimeClassKind() *api.Kind {
	gvk := nodev1.SchemeGroupVersion.WithKind("RuntimeClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "RuntimeClassList",
		Resource: "runtimeclasses", Singular: "runtimeclass",
		Prefix: "runtimeclasses",
		New:    api.New[nodev1.RuntimeClass](), NewList: api.New[nodev1.RuntimeClassList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			AllowCreateOnUpdate: true,
			AnyFinalizer:        true,
			Default: api.On(func(r *nodev1.RuntimeClass) {
				if r.Overhead != nil {
					podspec.RoundUp(r.Overhead.PodFixed)
				}
			}),
			Validate: api.Check(validateRuntimeClass),
			ValidateUpdate: api.Check2(func(r, old *nodev1.RuntimeClass) field.ErrorList {
				return append(validateRuntimeClass(r), check.Immutable(r.Handler, old.Handler, field.NewPath("handler"))...)
			}),
			ForbidUnconditionalUpdate: true,
			Warnings: func(o, _ runtime.Object) []string {
				s := o.(*nodev1.RuntimeClass).Scheduling
				if s == nil {
					return nil
				}
				var out []string
				for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
					if text := podspec.DeprecatedLabel(key); text != "" {
						out = append(out, "scheduling.nodeSelector: "+text)
					}
				}
				return out
			},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Handler", ""),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(r *nodev1.RuntimeClass) []any {
			return []any{r.Name, r.Handler, printing.Age(r.CreationTimestamp)}
		}),
	}
}

func validateRuntimeClass(r *nodev1.RuntimeClass) field.ErrorList {
	errs := check.Each(field.NewPath("handler"), r.Handler, validation.IsDNS1123Label(r.Handler))
	if r.Handler == "" {
		errs = field.ErrorList{field.Required(field.NewPath("handler"), "")}
	}
	if r.Overhead != nil {
		errs = append(errs, podspec.ValidateResourceRequirements(&corev1.ResourceRequirements{Limits: r.Overhead.PodFixed}, field.NewPath("overhead"))...)
	}
	if s := r.Scheduling; s != nil {
		path := field.NewPath("scheduling")
		errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
		errs = append(errs, podspec.ValidateTolerations(s.Tolerations, path.Child("tolerations"))...)
		for i := range s.Tolerations {
			for k := range s.Tolerations[:i] {
				if check.Equal(s.Tolerations[i], s.Tolerations[k]) {
					errs = append(errs, field.Duplicate(path.Child("tolerations").Index(i), s.Tolerations[i]))
					break
				}
			}
		}
	}
	return errs
}
