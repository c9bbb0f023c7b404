package batch

import (
	"slices"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What is wrong with a changed job as a job is said twice, once as of a job
// and once as of a change; labels and selector that the server made count.
func TestJobUpdate(t *testing.T) {
	old := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", UID: "u"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}}}
	defaultJob(old)
	generateSelector(old)
	const (
		labels, selector = "spec.template.metadata.labels", "spec.selector"
		template         = "spec.template"
	)
	for name, c := range map[string]struct {
		change func(*batchv1.Job)
		want   []string // fields at fault
	}{
		"nothing":     {func(*batchv1.Job) {}, nil},
		"value":       {func(j *batchv1.Job) { *j.Spec.Parallelism = -1 }, []string{"spec.parallelism", "spec.parallelism"}},
		"no selector": {func(j *batchv1.Job) { j.Spec.Selector = nil }, []string{selector, labels, selector, labels, selector}},
		"no labels": {func(j *batchv1.Job) { j.Spec.Template.Labels = nil }, []string{
			labels + "[controller-uid]", labels + "[job-name]", labels + "[batch.kubernetes.io/controller-uid]", labels + "[batch.kubernetes.io/job-name]",
			labels, labels, template,
		}},
	} {
		j := old.DeepCopy()
		c.change(j)
		var got []string
		for _, err := range validateJobUpdate(j, old) {
			got = append(got, err.Field)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
