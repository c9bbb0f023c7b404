package batch

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestTemplateUpdate: of a stopped job's template the pods' metadata and where
// they may run can change, of another's nothing.
func TestTemplateUpdate(t *testing.T) {
	changes := map[string]func(*corev1.PodTemplateSpec){
		"image":  func(p *corev1.PodTemplateSpec) { p.Spec.Containers[0].Image = "z" },
		"labels": func(p *corev1.PodTemplateSpec) { p.Labels = map[string]string{"x": "y"} },
		"name":   func(p *corev1.PodTemplateSpec) { p.Name = "q" },
		"node":   func(p *corev1.PodTemplateSpec) { p.Spec.NodeSelector = map[string]string{"a": "b"} },
		"none":   func(*corev1.PodTemplateSpec) {},
	}
	for change, want := range map[string]struct{ running, stopped string }{
		"image": {"spec.template", "spec.template.spec"}, "labels": {"spec.template", ""}, "name": {"spec.template", ""},
		"node": {"spec.template", ""}, "none": {"", ""},
	} {
		old := &batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}
		now := old.DeepCopy()
		changes[change](&now.Template)
		for stopped, path := range map[bool]string{false: want.running, true: want.stopped} {
			errs := validateTemplateUpdate(now, old, stopped, field.NewPath("spec", "template"))
			switch {
			case len(errs) == 0 && path == "":
			case len(errs) == 1 && errs[0].Field == path && errs[0].Detail == "field is immutable":
			default:
				t.Errorf("%s, stopped %v: %v, want %q", change, stopped, errs, path)
			}
		}
	}
}
