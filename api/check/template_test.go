package check

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestTemplateMeta(t *testing.T) {
	at := metav1.NewTime(time.Unix(1, 0))
	for _, tc := range []struct {
		meta metav1.ObjectMeta
		want string // of the one error; "" is none
	}{
		{metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}, ""},
		{metav1.ObjectMeta{Name: "n"}, "m.name: Forbidden: cannot be set"},
		{metav1.ObjectMeta{UID: "n"}, "m.uID: Forbidden: cannot be set"},
		{metav1.ObjectMeta{CreationTimestamp: at}, "m.creationTimestamp: Forbidden: cannot be set"},
		{metav1.ObjectMeta{DeletionTimestamp: &at}, "m.deletionTimestamp: Forbidden: cannot be set"},
		{metav1.ObjectMeta{Finalizers: []string{"a.b/c"}}, "m.finalizers: Forbidden: cannot be set"},
		{metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{}}}, "m.managedFields: Forbidden: cannot be set"},
	} {
		errs := TemplateMeta(&tc.meta, field.NewPath("m"))
		switch {
		case tc.want == "" && len(errs) == 0:
		case len(errs) != 1 || errs[0].Error() != tc.want:
			t.Errorf("%+v: %v, want %q", tc.meta, errs, tc.want)
		}
	}
}
