package resource

import (
	"fmt"
	"math"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"

	"github.com/coxswain/cox/api/podspec"
)

func extendedResource(name string) bool {
	return podspec.IsExtended(corev1.ResourceName(name))
}

// deviceEnv is what selectors know: one variable, device (see the comment of
// CELDeviceSelector in k8s.io/api/resource/v1). It is made at first use.
var deviceEnv = sync.OnceValues(func() (*environment.EnvSet, error) {
	str, dyn, quantity := apiservercel.StringType, apiservercel.DynType, apiservercel.QuantityDeclType
	perDomain := func(value *apiservercel.DeclType) *apiservercel.DeclType {
		inner := apiservercel.NewMapType(str, value, resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)
		return apiservercel.NewMapType(str, inner, resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)
	}
	device := apiservercel.NewObjectType("kubernetes.DRADevice", map[string]*apiservercel.DeclField{
		"driver":                   apiservercel.NewDeclField("driver", apiservercel.NewSimpleTypeWithMinSize("string", cel.StringType, types.String(""), 0), true, nil, nil),
		"attributes":               apiservercel.NewDeclField("attributes", perDomain(dyn), true, nil, nil),
		"capacity":                 apiservercel.NewDeclField("capacity", perDomain(quantity), true, nil, nil),
		"allowMultipleAllocations": apiservercel.NewDeclField("allowMultipleAllocations", apiservercel.BoolType, true, nil, nil),
	})
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 31),
		EnvOptions: []cel.EnvOption{
			cel.Variable("device", device.CelType()),
			library.SemverLib(library.SemverVersion(1)),
			ext.Bindings(ext.BindingsVersion(0)),
		},
		DeclTypes: []*apiservercel.DeclType{device},
	})
	if err != nil {
		return nil, fmt.Errorf("environment of device selectors: %w", err)
	}
	return set, nil
})

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
	set, err := deviceEnv()
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	env := set.NewExpressionsEnv()
	if stored {
		env = set.StoredExpressionsEnv()
	}
	ast, issues := env.Compile(source)
	if issues != nil && issues.Err() != nil {
		return field.ErrorList{field.Invalid(path, source, "compilation failed: "+issues.String())}
	}
	if t := ast.OutputType(); t != cel.BoolType && t != cel.AnyType {
		return field.ErrorList{field.Invalid(path, source, fmt.Sprintf("must evaluate to bool or the unknown type, not %s", t))}
	}
	if stored {
		return nil
	}
	cost, err := env.EstimateCost(ast, &library.CostEstimator{SizeEstimator: sizes{}})
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(path, source, "cost estimation failed: "+err.Error())}
	case cost.Max > resourcev1.CELSelectorExpressionMaxCost:
		most := cost.Max
		if most == math.MaxUint64 {
			return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
		}
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("too complex, exceeds cost limit by factor of %.1fx", float64(most)/resourcev1.CELSelectorExpressionMaxCost))}
	}
	return nil
}

// sizes bounds what a device can hold.
type sizes struct{}

// EstimateSize implements checker.CostEstimator.
func (sizes) EstimateSize(n checker.AstNode) *checker.SizeEstimate {
	path := n.Path()
	if len(path) < 2 || path[0] != "device" {
		return nil
	}
	switch path[1] {
	case "driver":
		return &checker.SizeEstimate{Max: resourcev1.DriverNameMaxLength}
	case "attributes", "capacity":
		switch len(path) {
		case 2, 3: // domains, names in a domain
			return &checker.SizeEstimate{Max: resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice}
		}
		return &checker.SizeEstimate{Max: resourcev1.DeviceAttributeMaxValueLength}
	}
	return nil
}

// EstimateCallCost implements checker.CostEstimator.
func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}
