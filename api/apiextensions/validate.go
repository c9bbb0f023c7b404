package apiextensions

import (
	"fmt"
	"slices"
	"strings"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// Validate checks a new definition.
func Validate(d *extv1.CustomResourceDefinition) field.ErrorList {
	errs := validateName(d)
	errs = append(errs, validateSpec(&d.Spec, nil, field.NewPath("spec"))...)
	errs = append(errs, validateApproval(d)...)
	return append(errs, validateStored(d)...)
}

// ValidateUpdate checks a changed definition. What was established stays what
// it is; a schema that has not changed is not judged anew.
func ValidateUpdate(d, old *extv1.CustomResourceDefinition) field.ErrorList {
	errs := validateName(d)
	errs = append(errs, validateSpec(&d.Spec, &old.Spec, field.NewPath("spec"))...)
	if Is(old, extv1.Established) {
		path := field.NewPath("spec")
		errs = append(errs, check.Immutable(d.Spec.Scope, old.Spec.Scope, path.Child("scope"))...)
		errs = append(errs, check.Immutable(d.Spec.Names.Kind, old.Spec.Names.Kind, path.Child("names", "kind"))...)
		errs = append(errs, check.Immutable(d.Spec.Names.Plural, old.Spec.Names.Plural, path.Child("names", "plural"))...)
	}
	errs = append(errs, check.Immutable(d.Spec.Group, old.Spec.Group, field.NewPath("spec", "group"))...)
	if d.Annotations[extv1.KubeAPIApprovedAnnotation] != old.Annotations[extv1.KubeAPIApprovedAnnotation] {
		errs = append(errs, validateApproval(d)...)
	}
	return append(errs, validateStored(d)...)
}

func validateStatusUpdate(d, _ *extv1.CustomResourceDefinition) field.ErrorList {
	errs := validateStored(d)
	path := field.NewPath("status", "storedVersions")
	if len(d.Status.StoredVersions) == 0 {
		errs = append(errs, field.Invalid(path, d.Status.StoredVersions, "must have at least one stored version"))
	}
	return errs
}

func validateName(d *extv1.CustomResourceDefinition) field.ErrorList {
	if want := d.Spec.Names.Plural + "." + d.Spec.Group; d.Name != want && d.Name != "" {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), d.Name, `must be spec.names.plural+"."+spec.group`)}
	}
	return nil
}

// validateStored checks that every version that objects may be stored in is
// still known.
func validateStored(d *extv1.CustomResourceDefinition) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "storedVersions")
	known, storage := sets.New[string](), ""
	for _, v := range d.Spec.Versions {
		known.Insert(v.Name)
		if v.Storage {
			storage = v.Name
		}
	}
	for i, v := range d.Status.StoredVersions {
		if !known.Has(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "missing from spec.versions; "+v+" was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in "+v+" and removes "+v+" from status.storedVersions"))
		}
	}
	if len(d.Status.StoredVersions) > 0 && storage != "" && !slices.Contains(d.Status.StoredVersions, storage) {
		errs = append(errs, field.Invalid(path, d.Status.StoredVersions, "must have the storage version "+storage))
	}
	return errs
}

// validateApproval keeps community groups for what the community approved.
func validateApproval(d *extv1.CustomResourceDefinition) field.ErrorList {
	if !protectedGroup(d.Spec.Group) {
		return nil
	}
	path := field.NewPath("metadata", "annotations").Key(extv1.KubeAPIApprovedAnnotation)
	v := d.Annotations[extv1.KubeAPIApprovedAnnotation]
	switch {
	case v == "":
		return field.ErrorList{field.Required(path, fmt.Sprintf("protected groups must have approval annotation %q, see https://github.com/kubernetes/enhancements/pull/1111", extv1.KubeAPIApprovedAnnotation))}
	case strings.HasPrefix(v, "unapproved"), strings.HasPrefix(v, "https://"), strings.HasPrefix(v, "http://"):
		return nil
	}
	return field.ErrorList{field.Invalid(path, v, fmt.Sprintf("protected groups must have approval annotation %q with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111", extv1.KubeAPIApprovedAnnotation))}
}

func protectedGroup(group string) bool {
	return group == "k8s.io" || group == "kubernetes.io" || strings.HasSuffix(group, ".k8s.io") || strings.HasSuffix(group, ".kubernetes.io")
}

func validateSpec(s, old *extv1.CustomResourceDefinitionSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case s.Group == "":
		errs = append(errs, field.Required(path.Child("group"), ""))
	case len(validation.IsDNS1123Subdomain(s.Group)) > 0:
		errs = append(errs, field.Invalid(path.Child("group"), s.Group, strings.Join(validation.IsDNS1123Subdomain(s.Group), ",")))
	case !strings.Contains(s.Group, "."):
		errs = append(errs, field.Invalid(path.Child("group"), s.Group, "should be a domain with at least one dot"))
	}
	scopes := []extv1.ResourceScope{extv1.ClusterScoped, extv1.NamespaceScoped}
	if s.Scope == "" {
		errs = append(errs, field.Required(path.Child("scope"), ""))
	} else {
		errs = append(errs, check.OneOf(s.Scope, path.Child("scope"), scopes...)...)
	}
	if s.PreserveUnknownFields && (old == nil || !old.PreserveUnknownFields) {
		errs = append(errs, field.Invalid(path.Child("preserveUnknownFields"), true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"))
	}
	storage, names, unique := 0, sets.New[string](), true
	for i := range s.Versions {
		v := &s.Versions[i]
		unique = unique && !names.Has(v.Name)
		names.Insert(v.Name)
		if v.Storage {
			storage++
		}
		if msgs := validation.IsDNS1035Label(v.Name); len(msgs) > 0 {
			errs = append(errs, field.Invalid(path.Child("versions").Index(i).Child("name"), v.Name, strings.Join(msgs, ",")))
		}
		if v.DeprecationWarning != nil {
			errs = append(errs, validateDeprecation(v, path.Child("versions").Index(i))...)
		}
		errs = append(errs, validateVersion(v, sameVersion(old, v.Name), path.Child("versions").Index(i))...)
	}
	if !unique {
		errs = append(errs, field.Invalid(path.Child("versions"), s.Versions, "must contain unique version names"))
	}
	if storage != 1 {
		errs = append(errs, field.Invalid(path.Child("versions"), s.Versions, "must have exactly one version marked as storage version"))
	}
	errs = append(errs, ValidateNames(&s.Names, path.Child("names"))...)
	return append(errs, validateConversion(s, path.Child("conversion"))...)
}

func validateDeprecation(v *extv1.CustomResourceDefinitionVersion, path *field.Path) field.ErrorList {
	path = path.Child("deprecationWarning")
	text := *v.DeprecationWarning
	switch {
	case !v.Deprecated:
		return field.ErrorList{field.Invalid(path, text, "can only be set for deprecated versions")}
	case text == "":
		return field.ErrorList{field.Invalid(path, text, "must not be an empty string")}
	case len(text) > 256:
		return field.ErrorList{field.Invalid(path, text, "must be <= 256 characters long")}
	}
	for i, r := range text {
		if r < 0x20 || r == 0x7f {
			return field.ErrorList{field.Invalid(path, text, fmt.Sprintf("must only contain printable UTF-8 characters; non-printable character found at index %d", i))}
		}
	}
	return nil
}

func sameVersion(s *extv1.CustomResourceDefinitionSpec, name string) *extv1.CustomResourceDefinitionVersion {
	if s == nil {
		return nil
	}
	for i := range s.Versions {
		if s.Versions[i].Name == name {
			return &s.Versions[i]
		}
	}
	return nil
}

// ValidateNames checks the names of a kind.
func ValidateNames(n *extv1.CustomResourceDefinitionNames, path *field.Path) field.ErrorList {
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
	label(n.Plural, path.Child("plural"))
	label(n.Singular, path.Child("singular"))
	kind(n.Kind, path.Child("kind"))
	kind(n.ListKind, path.Child("listKind"))
	for i, s := range n.ShortNames {
		label(s, path.Child("shortNames").Index(i))
	}
	if n.Kind != "" && n.Kind == n.ListKind {
		errs = append(errs, field.Invalid(path.Child("listKind"), n.ListKind, "kind and listKind may not be the same"))
	}
	for i, c := range n.Categories {
		label(c, path.Child("categories").Index(i))
	}
	if n.Plural == "" {
		errs = append(errs, field.Required(path.Child("plural"), ""))
	}
	if n.Singular == "" {
		errs = append(errs, field.Required(path.Child("singular"), ""))
	}
	if n.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	}
	if n.ListKind == "" {
		errs = append(errs, field.Required(path.Child("listKind"), ""))
	}
	return errs
}
