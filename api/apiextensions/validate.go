package apiextensions

import (
	"fmt"
	"slices"
	"strings"

	hub "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// Definitions are judged in the form that all versions of the API share, in
// which what all versions of a definition have in common is said once:
// clients see that form's paths ("spec.validation") in the causes.

// Validate checks a new definition.
func Validate(d *extv1.CustomResourceDefinition) field.ErrorList {
	return validate(d, nil)
}

// ValidateUpdate checks a changed definition. What was established stays what
// it is; a schema that has not changed is not judged anew.
func ValidateUpdate(d, old *extv1.CustomResourceDefinition) field.ErrorList {
	errs := validate(d, old)
	if Is(old, extv1.Established) {
		path := field.NewPath("spec")
		errs = append(errs, check.Immutable(string(d.Spec.Scope), string(old.Spec.Scope), path.Child("scope"))...)
		errs = append(errs, check.Immutable(d.Spec.Names.Kind, old.Spec.Names.Kind, path.Child("names", "kind"))...)
		errs = append(errs, check.Immutable(d.Spec.Names.Plural, old.Spec.Names.Plural, path.Child("names", "plural"))...)
	}
	return append(errs, check.Immutable(d.Spec.Group, old.Spec.Group, field.NewPath("spec", "group"))...)
}

func validate(in, prev *extv1.CustomResourceDefinition) field.ErrorList {
	d, err := toHub(in)
	if err != nil {
		return field.ErrorList{field.Invalid(field.NewPath("spec"), "", err.Error())}
	}
	var old *hub.CustomResourceDefinition
	if prev != nil {
		if old, err = toHub(prev); err != nil {
			return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
		}
	}
	var errs field.ErrorList
	var oldSpec *hub.CustomResourceDefinitionSpec
	if old != nil {
		oldSpec = &old.Spec
	} else {
		errs = validateName(d)
	}
	errs = append(errs, validateSpec(&d.Spec, oldSpec, field.NewPath("spec"))...)
	errs = append(errs, validateStored(d)...)
	if old == nil || d.Annotations[extv1.KubeAPIApprovedAnnotation] != old.Annotations[extv1.KubeAPIApprovedAnnotation] {
		errs = append(errs, validateApproval(d)...)
	}
	return errs
}

func validateName(d *hub.CustomResourceDefinition) field.ErrorList {
	if want := d.Spec.Names.Plural + "." + d.Spec.Group; d.Name != want && d.Name != "" {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), d.Name, `must be spec.names.plural+"."+spec.group`)}
	}
	return nil
}

// validateStored checks that every version that objects may be stored in is
// still known.
func validateStored(d *hub.CustomResourceDefinition) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "storedVersions")
	stored := d.Status.StoredVersions
	if len(stored) == 0 {
		errs = append(errs, field.Invalid(path, stored, "must have at least one stored version"))
	}
	known, storage := sets.New[string](), ""
	for _, v := range d.Spec.Versions {
		known.Insert(v.Name)
		if v.Storage {
			storage = v.Name
		}
	}
	for i, v := range stored {
		if !known.Has(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "missing from spec.versions; "+v+" was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in "+v+" and removes "+v+" from status.storedVersions"))
		}
	}
	if len(stored) > 0 && storage != "" && !slices.Contains(stored, storage) {
		errs = append(errs, field.Invalid(path, stored, "must have the storage version "+storage))
	}
	return errs
}

// validateApproval keeps community groups for what the community approved, or
// knowingly did not (https://github.com/kubernetes/enhancements/pull/1111).
func validateApproval(d *hub.CustomResourceDefinition) field.ErrorList {
	if !ProtectedGroup(d.Spec.Group) {
		return nil
	}
	const about = ", see https://github.com/kubernetes/enhancements/pull/1111"
	path := field.NewPath("metadata", "annotations").Key(extv1.KubeAPIApprovedAnnotation)
	v := d.Annotations[extv1.KubeAPIApprovedAnnotation]
	switch ok, _, _ := Approval(v); {
	case v == "":
		return field.ErrorList{field.Required(path, fmt.Sprintf("protected groups must have approval annotation %q", extv1.KubeAPIApprovedAnnotation)+about)}
	case !ok && !strings.HasPrefix(v, "unapproved"):
		return field.ErrorList{field.Invalid(path, v, fmt.Sprintf("protected groups must have approval annotation %q with either a URL or a reason starting with \"unapproved\"", extv1.KubeAPIApprovedAnnotation)+about)}
	}
	return nil
}

// ProtectedGroup says whether a group is the community's own.
func ProtectedGroup(group string) bool {
	return group == "k8s.io" || group == "kubernetes.io" || strings.HasSuffix(group, ".k8s.io") || strings.HasSuffix(group, ".kubernetes.io")
}

func validateSpec(s, old *hub.CustomResourceDefinitionSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case s.Group == "":
		errs = append(errs, field.Required(path.Child("group"), ""))
	case len(validation.IsDNS1123Subdomain(s.Group)) > 0:
		errs = append(errs, field.Invalid(path.Child("group"), s.Group, strings.Join(validation.IsDNS1123Subdomain(s.Group), ",")))
	case !strings.Contains(s.Group, "."):
		errs = append(errs, field.Invalid(path.Child("group"), s.Group, "should be a domain with at least one dot"))
	}
	if s.Scope == "" {
		errs = append(errs, field.Required(path.Child("scope"), ""))
	} else {
		errs = append(errs, check.OneOf(s.Scope, path.Child("scope"), hub.ClusterScoped, hub.NamespaceScoped)...)
	}
	errs = append(errs, validateVersions(s, old, path)...)
	errs = append(errs, ValidateNames(&s.Names, path.Child("names"))...)
	errs = append(errs, validateShared(s, old, path)...)
	errs = append(errs, validateConversion(s, path.Child("conversion"))...)
	if keeps(s) && slices.ContainsFunc(schemas(s), func(x *hub.JSONSchemaProps) bool {
		return within(x, func(x *hub.JSONSchemaProps) bool { return x.Default != nil })
	}) {
		errs = append(errs, field.Invalid(path.Child("preserveUnknownFields"), true, "must be false in order to use defaults in the schema"))
	}
	if keeps(s) && (old == nil || !keeps(old)) {
		errs = append(errs, field.Invalid(path.Child("preserveUnknownFields"), true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"))
	}
	return errs
}

// keeps: objects keep fields that their schema does not know.
func keeps(s *hub.CustomResourceDefinitionSpec) bool {
	return s.PreserveUnknownFields != nil && *s.PreserveUnknownFields
}

// schemas are those of all versions.
func schemas(s *hub.CustomResourceDefinitionSpec) []*hub.JSONSchemaProps {
	var out []*hub.JSONSchemaProps
	if described(s.Validation) {
		out = append(out, s.Validation.OpenAPIV3Schema)
	}
	for i := range s.Versions {
		if v := s.Versions[i].Schema; described(v) {
			out = append(out, v.OpenAPIV3Schema)
		}
	}
	return out
}

// ValidateNames checks the names of a kind.
func ValidateNames(n *hub.CustomResourceDefinitionNames, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	label := func(v string, p *field.Path) {
		if msgs := validation.IsDNS1035Label(v); len(msgs) > 0 {
			errs = append(errs, field.Invalid(p, v, strings.Join(msgs, ",")))
		}
	}
	kind := func(v string, p *field.Path) {
		if msgs := validation.IsDNS1035Label(strings.ToLower(v)); len(msgs) > 0 {
			errs = append(errs, field.Invalid(p, v, fmt.Sprintf("may have mixed case, but should otherwise match: %v", strings.Join(msgs, ","))))
		}
	}
	each := []struct {
		value, name string
		judge       func(string, *field.Path)
	}{{n.Plural, "plural", label}, {n.Singular, "singular", label}, {n.Kind, "kind", kind}, {n.ListKind, "listKind", kind}}
	for _, e := range each {
		if e.value == "" {
			errs = append(errs, field.Required(path.Child(e.name), ""))
		}
	}
	for _, e := range each {
		if e.value != "" {
			e.judge(e.value, path.Child(e.name))
		}
	}
	for i, s := range n.ShortNames {
		label(s, path.Child("shortNames").Index(i))
	}
	if n.Kind != "" && n.Kind == n.ListKind {
		errs = append(errs, field.Invalid(path.Child("listKind"), n.ListKind, "kind and listKind may not be the same"))
	}
	for i, c := range n.Categories {
		label(c, path.Child("categories").Index(i))
	}
	return errs
}
