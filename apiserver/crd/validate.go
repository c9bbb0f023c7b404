package crd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
	openapierrors "k8s.io/kube-openapi/pkg/validation/errors"
)

// validate checks an object of the version; old is nil for a new one. What an
// update leaves as it was is not held against it ("ratcheting", KEP-4008).
func (v *version) validate(u, old *unstructured.Unstructured) field.ErrorList {
	var errs field.ErrorList
	if k := u.GetKind(); k != v.gvk.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), k, "must be "+v.gvk.Kind))
	}
	if av := u.GetAPIVersion(); av != v.av {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), av, "must be "+v.av))
	}
	if len(errs) > 0 {
		return errs
	}
	if err := v.compile(); err != nil {
		return append(errs, field.InternalError(nil, err))
	}
	if v.schema == nil {
		return errs
	}
	var correlated *common.CorrelatedObject
	if old != nil {
		correlated = common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: v.schema})
	}
	if !v.tree.Valid(u.Object) {
		errs = append(errs, v.validateSchema(u, correlated)...)
		errs = append(errs, objectmeta.Validate(nil, u.Object, v.schema, false)...)
		if bad := listtype.ValidateListSetsAndMaps(nil, v.schema, u.Object); len(bad) > 0 {
			if old == nil || len(listtype.ValidateListSetsAndMaps(nil, v.schema, old.Object)) == 0 {
				errs = append(errs, bad...)
			}
		}
	}
	errs = append(errs, v.validateReplicas(u)...)
	return append(errs, v.validateRules(u, old, correlated, errs)...)
}

// validateSchema checks the values.
func (v *version) validateSchema(u *unstructured.Unstructured, correlated *common.CorrelatedObject) field.ErrorList {
	var errs field.ErrorList
	for _, err := range v.validator.Validate(u.Object).Errors {
		var bad *openapierrors.Validation
		if !errors.As(err, &bad) {
			errs = append(errs, field.Invalid(nil, "", err.Error()))
			continue
		}
		at := strings.TrimPrefix(bad.Name, ".")
		if correlated != nil && unchanged(correlated, at, bad.Code() == openapierrors.RequiredFailCode) {
			continue
		}
		errs = append(errs, fieldError(bad, at))
	}
	return errs
}

// fieldError puts a validator's finding into the API's form.
func fieldError(bad *openapierrors.Validation, at string) *field.Error {
	var path *field.Path
	if at != "" {
		path = field.NewPath(at)
	}
	value := bad.Value
	if value == nil {
		value = ""
	}
	limit := -1
	switch n := bad.Valid.(type) {
	case int64:
		limit = int(n)
	case int:
		limit = n
	}
	switch bad.Code() {
	case openapierrors.RequiredFailCode:
		return field.Required(path, "")
	case openapierrors.EnumFailCode:
		supported := make([]string, 0, len(bad.Values))
		for _, s := range bad.Values {
			supported = append(supported, fmt.Sprint(s))
		}
		return field.NotSupported(path, bad.Value, supported)
	case openapierrors.TooLongFailCode:
		return field.TooLong(path, value, limit)
	case openapierrors.MaxItemsFailCode, openapierrors.TooManyPropertiesCode:
		return field.TooMany(path, sizeOf(bad.Value), limit)
	case openapierrors.InvalidTypeCode:
		return field.TypeInvalid(path, value, bad.Error())
	}
	return field.Invalid(path, value, bad.Error())
}

// sizeOf is the number in an error's value: a count, or the list itself.
func sizeOf(v any) int {
	switch n := v.(type) {
	case int64:
		return int(n)
	case int:
		return n
	case nil:
		return -1
	}
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice || r.Kind() == reflect.Map {
		return r.Len()
	}
	return -1
}

// unchanged says that a value at a path ("spec.list[2].name") lies within a
// part of the object that the update leaves as it was. missing: the value is
// not there, so what lacks it counts.
func unchanged(c *common.CorrelatedObject, path string, missing bool) bool {
	for {
		if c == nil {
			return false
		}
		if c.CachedDeepEqual() {
			return true
		}
		if path == "" {
			return false
		}
		var next *common.CorrelatedObject
		switch val := c.Value.(type) {
		case map[string]any:
			key, rest := childKey(val, path)
			if _, there := val[key]; !there && missing {
				return false
			}
			next, path = c.Key(key), rest
		case []any:
			var i int
			if _, err := fmt.Sscanf(path, "[%d]", &i); err != nil || i < 0 || i >= len(val) {
				return false
			}
			_, rest, _ := strings.Cut(path, "]")
			next, path = c.Index(i), strings.TrimPrefix(rest, ".")
		default:
			return false
		}
		c = next
	}
}

// childKey finds the longest key with which a path begins: keys may have dots.
func childKey(m map[string]any, path string) (key, rest string) {
	best := ""
	for k := range m {
		after, ok := strings.CutPrefix(path, k)
		if ok && len(k) > len(best) && (after == "" || after[0] == '.' || after[0] == '[') {
			best = k
		}
	}
	if best == "" {
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			return path, ""
		}
		best = path[:end]
	}
	return best, strings.TrimPrefix(path[len(best):], ".")
}

// validateReplicas keeps a scale's count a count.
func (v *version) validateReplicas(u *unstructured.Unstructured) field.ErrorList {
	if v.Subresources == nil || v.Subresources.Scale == nil {
		return nil
	}
	path := v.Subresources.Scale.SpecReplicasPath
	n, found, err := unstructured.NestedInt64(u.Object, steps(path)...)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(field.NewPath(path), nested(u.Object, path), err.Error())}
	case found && n < 0:
		return field.ErrorList{field.Invalid(field.NewPath(path), n, "should be a non-negative integer")}
	case found && n > math.MaxInt32:
		return field.ErrorList{field.Invalid(field.NewPath(path), n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}

// validateRules runs the version's CEL rules, if what was found so far leaves
// them something that they can run on.
func (v *version) validateRules(u, old *unstructured.Unstructured, correlated *common.CorrelatedObject, before field.ErrorList) field.ErrorList {
	rules := v.rules()
	if rules == nil || old != nil && len(before) == 0 && v.idle(u, old) {
		return nil
	}
	for _, e := range before {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return field.ErrorList{field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation")}
		}
	}
	var was any
	var opts []cel.Option
	if old != nil {
		was = old.Object
		opts = append(opts, cel.WithRatcheting(correlated))
	}
	errs, _ := rules.Validate(context.Background(), nil, v.schema, u.Object, was, celconfig.RuntimeCELCostBudget, opts...)
	return errs
}

// idle says that no rule can find anything: an update is not held against what
// it leaves as it was, and all that has rules is as it was. Rules that compare
// with what was are never idle.
func (v *version) idle(u, old *unstructured.Unstructured) bool {
	ruled := v.ruled()
	if ruled == nil {
		return false
	}
	for _, name := range ruled {
		if !apiequality.Semantic.DeepEqual(u.Object[name], old.Object[name]) {
			return false
		}
	}
	return true
}

// ruledFields are the fields of an object below which there are rules; nil if
// the object itself has some, or if any rule compares with the object before.
func ruledFields(s *structural.Structural) []string {
	out := []string{}
	if len(s.XValidations) > 0 {
		return nil
	}
	for name := range s.Properties {
		p := s.Properties[name]
		has, compares := rulesWithin(&p)
		if compares {
			return nil
		}
		if has {
			out = append(out, name)
		}
	}
	return out
}

// rulesWithin says whether there are rules in a schema, and such as compare
// with what was.
func rulesWithin(s *structural.Structural) (has, compares bool) {
	if s == nil {
		return false, false
	}
	look := func(rules extv1.ValidationRules) {
		for i := range rules {
			r := &rules[i]
			has = true
			compares = compares || r.OptionalOldSelf != nil || strings.Contains(r.Rule, "oldSelf") || strings.Contains(r.MessageExpression, "oldSelf")
		}
	}
	look(s.XValidations)
	into := func(s *structural.Structural) {
		h, c := rulesWithin(s)
		has, compares = has || h, compares || c
	}
	for name := range s.Properties {
		p := s.Properties[name]
		into(&p)
	}
	into(s.Items)
	if s.AdditionalProperties != nil {
		into(s.AdditionalProperties.Structural)
	}
	if v := s.ValueValidation; v != nil && (len(v.AllOf) > 0 || len(v.AnyOf) > 0 || len(v.OneOf) > 0 || v.Not != nil) {
		has = true // branches may have some
		compares = true
	}
	return has, compares
}
