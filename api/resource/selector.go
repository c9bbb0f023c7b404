package resource

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"github.com/coxswain/cox/api/podspec"
)

func extendedResource(name string) bool {
	return podspec.IsExtended(corev1.ResourceName(name))
}

// expressions are those that an object has already.
type expressions map[string]bool

func (e expressions) add(list []resourcev1.DeviceSelector) {
	for _, s := range list {
		if s.CEL != nil {
			e[s.CEL.Expression] = true
		}
	}
}

func validateSelectors(list []resourcev1.DeviceSelector, stored expressions, path *field.Path) field.ErrorList {
	return listed[resourcev1.DeviceSelector, string](list, resourcev1.DeviceSelectorsMaxSize, path, nil,
		func(s *resourcev1.DeviceSelector, p *field.Path) field.ErrorList {
			if s.CEL == nil {
				return field.ErrorList{field.Required(p.Child("cel"), "")}
			}
			return validateExpression(s.CEL.Expression, stored[s.CEL.Expression], p.Child("cel", "expression"))
		})
}

// validateExpression compiles a selector; a new one may cost only so much.
func validateExpression(source string, stored bool, path *field.Path) field.ErrorList {
	if !stored && len(source) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	kind := environment.NewExpressions
	if stored {
		kind = environment.StoredExpressions
	}
	// The library that evaluates selectors compiles them: what it can run is valid.
	res := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true}).CompileCELExpression(source, dracel.Options{EnvType: &kind})
	if err := res.Error; err != nil {
		switch err.Type {
		case apiservercel.ErrorTypeInternal:
			return field.ErrorList{field.InternalError(path, err)}
		case apiservercel.ErrorTypeRequired:
			return field.ErrorList{field.Required(path, err.Detail)}
		}
		return field.ErrorList{field.Invalid(path, source, err.Detail)}
	}
	if stored || res.MaxCost <= resourcev1.CELSelectorExpressionMaxCost {
		return nil
	}
	if res.MaxCost == math.MaxUint64 {
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	}
	return field.ErrorList{field.Forbidden(path, fmt.Sprintf("too complex, exceeds cost limit by factor of %.1fx", float64(res.MaxCost)/resourcev1.CELSelectorExpressionMaxCost))}
}
