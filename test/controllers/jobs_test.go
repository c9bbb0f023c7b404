package controllers_test

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

// elastic grows an Indexed Job whose completions and parallelism go together,
// and shrinks it: the highest indexes come last and go first. Meanwhile nobody
// touches the Job "delegated", which is another's to manage.
func (w *world) elastic(ns string, make func(name, image string, change func(*batchv1.JobSpec))) {
	w.t.Helper()
	make("elastic", "v1", func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = ptr.To[int32](2), ptr.To[int32](2), ptr.To(batchv1.IndexedCompletion)
	})
	for _, size := range []int32{2, 4, 1} {
		_, err := client.Jobs.In(w.root, ns).Mutate(w.t.Context(), "elastic", "", func(j *batchv1.Job) (bool, error) {
			j.Spec.Completions, j.Spec.Parallelism = &size, &size
			return true, nil
		})
		w.must(err)
		want := []string{"0", "1", "2", "3"}[:size]
		eventually(w, client.Pods, ns, "one for each index", func(all []*corev1.Pod) bool {
			var have []string
			for _, p := range all {
				if p.Labels[batchv1.JobNameLabel] == "elastic" && p.DeletionTimestamp == nil {
					have = append(have, p.Annotations[batchv1.JobCompletionIndexAnnotation])
				}
			}
			slices.Sort(have)
			return slices.Equal(have, want)
		})
		object(w, client.Jobs, ns, "elastic", "counts them", func(j *batchv1.Job) bool { return j != nil && j.Status.Active == size })
	}
	all, _, err := client.Pods.In(w.root, ns).List(w.t.Context(), client.Options{})
	w.must(err)
	for _, p := range all {
		if p.Labels[batchv1.JobNameLabel] == "delegated" {
			w.t.Errorf("%s is of a Job that is another's to manage", p.Name)
		}
	}
	j, err := client.Jobs.In(w.root, ns).Get(w.t.Context(), "delegated")
	w.must(err)
	if j.Status.StartTime != nil || len(j.Status.Conditions) > 0 {
		w.t.Errorf("another's Job was given a status: %+v", j.Status)
	}
	background := metav1.DeletePropagationBackground
	w.must(client.Jobs.In(w.root, ns).Delete(w.t.Context(), "elastic", client.Options{PropagationPolicy: &background}))
}
