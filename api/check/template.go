package check

import (
	"reflect"
	"unicode"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TemplateMeta checks the metadata of a claim's template: labels and
// annotations, which the claims get, and that there is nothing else.
func TemplateMeta(m *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(m.Annotations, path.Child("annotations"))
	errs = append(errs, metavalidation.ValidateLabels(m.Labels, path.Child("labels"))...)
	v := reflect.ValueOf(m).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name == "Labels" || name == "Annotations" || v.Field(i).IsZero() {
			continue
		}
		// Upstream names the fields as Go does, but for the first letter: uID.
		shown := []rune(name)
		shown[0] = unicode.ToLower(shown[0])
		errs = append(errs, field.Forbidden(path.Child(string(shown)), "cannot be set"))
	}
	return errs
}
