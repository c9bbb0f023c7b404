package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
)

func deployment(ns, name, image string, replicas int32) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	d.Spec = appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}}
	d.Spec.Template.Labels = map[string]string{"app": name}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	return d
}

func reason(d *appsv1.Deployment, t appsv1.DeploymentConditionType) string {
	for _, c := range d.Status.Conditions {
		if c.Type == t {
			return c.Reason
		}
	}
	return ""
}

func complete(d *appsv1.Deployment) bool {
	return d != nil && d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == *d.Spec.Replicas &&
		d.Status.AvailableReplicas == *d.Spec.Replicas && d.Status.Replicas == *d.Spec.Replicas &&
		reason(d, appsv1.DeploymentProgressing) == "NewReplicaSetAvailable"
}

func images(ps []*corev1.Pod) string {
	var out []string
	for _, p := range ps {
		if pods.Active(p) {
			out = append(out, p.Spec.Containers[0].Image)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestDeploymentFromStartToEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("web"), t.Context()
	ds := client.Deployments.In(w.root, ns)
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}
	_, err := client.Services.In(w.root, ns).Create(ctx, svc)
	w.must(err)
	_, err = ds.Create(ctx, deployment(ns, "web", "v1", 3))
	w.must(err)
	object(w, client.Deployments, ns, "web", "complete", complete)
	eventually(w, client.EndpointSlices, ns, "three ready endpoints on port 8080", func(s []*discoveryv1.EndpointSlice) bool {
		return len(s) == 1 && len(s[0].Endpoints) == 3 && *s[0].Endpoints[0].Conditions.Ready && len(s[0].Ports) == 1 && *s[0].Ports[0].Port == 8080 &&
			s[0].Annotations[corev1.EndpointsLastChangeTriggerTime] != ""
	})
	object(w, client.Endpoints, ns, "web", "complete", func(e *corev1.Endpoints) bool {
		return e != nil && len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == 3
	})

	// A new template replaces the pods; the old set stays as history.
	_, err = ds.Mutate(ctx, "web", "", func(d *appsv1.Deployment) (bool, error) {
		d.Spec.Template.Spec.Containers[0].Image = "v2"
		return true, nil
	})
	w.must(err)
	d := object(w, client.Deployments, ns, "web", "complete at revision 2", func(d *appsv1.Deployment) bool {
		return complete(d) && d.Annotations["deployment.kubernetes.io/revision"] == "2"
	})
	if d.Status.TerminatingReplicas == nil {
		t.Error("terminatingReplicas is not reported")
	}
	eventually(w, client.Pods, ns, "three of v2", func(ps []*corev1.Pod) bool { return images(ps) == "v2 v2 v2" })
	sets, _, err := client.ReplicaSets.In(w.root, ns).List(ctx, client.Options{})
	w.must(err)
	if len(sets) != 2 {
		t.Fatalf("%d sets, want 2", len(sets))
	}

	// Undo is the old template again; its set gets the next revision.
	var old *appsv1.ReplicaSet
	for _, s := range sets {
		if s.Spec.Template.Spec.Containers[0].Image == "v1" {
			old = s
		}
	}
	_, err = ds.Mutate(ctx, "web", "", func(d *appsv1.Deployment) (bool, error) {
		d.Spec.Template = *old.Spec.Template.DeepCopy()
		delete(d.Spec.Template.Labels, "pod-template-hash")
		return true, nil
	})
	w.must(err)
	object(w, client.Deployments, ns, "web", "complete at revision 3", func(d *appsv1.Deployment) bool {
		return complete(d) && d.Annotations["deployment.kubernetes.io/revision"] == "3"
	})
	object(w, client.ReplicaSets, ns, old.Name, "at revision 3 with history", func(s *appsv1.ReplicaSet) bool {
		return s != nil && s.Annotations["deployment.kubernetes.io/revision"] == "3" && s.Annotations["deployment.kubernetes.io/revision-history"] == "1"
	})

	// Scaling, to nothing too.
	for _, n := range []int32{7, 0, 2} {
		_, err = ds.Mutate(ctx, "web", "", func(d *appsv1.Deployment) (bool, error) { d.Spec.Replicas = &n; return true, nil })
		w.must(err)
		object(w, client.Deployments, ns, "web", fmt.Sprint("scaled to ", n), complete)
		eventually(w, client.Pods, ns, fmt.Sprint(n, " pods"), func(ps []*corev1.Pod) bool { return len(ps) == int(n) })
	}

	// A pod that is deleted is replaced; deleting the Deployment takes all.
	ps, _, err := client.Pods.In(w.root, ns).List(ctx, client.Options{})
	w.must(err)
	w.must(client.Pods.In(w.root, ns).Delete(ctx, ps[0].Name, client.Options{}))
	eventually(w, client.Pods, ns, "two others", func(now []*corev1.Pod) bool {
		return len(now) == 2 && now[0].Name != ps[0].Name && now[1].Name != ps[0].Name && pods.Ready(now[0]) && pods.Ready(now[1])
	})
	w.must(ds.Delete(ctx, "web", client.Options{}))
	eventually(w, client.ReplicaSets, ns, "gone", func(s []*appsv1.ReplicaSet) bool { return len(s) == 0 })
	eventually(w, client.Pods, ns, "gone", func(p []*corev1.Pod) bool { return len(p) == 0 })
	w.must(client.Services.In(w.root, ns).Delete(ctx, "web", client.Options{}))
	eventually(w, client.EndpointSlices, ns, "gone", func(s []*discoveryv1.EndpointSlice) bool { return len(s) == 0 })
	eventually(w, client.Endpoints, ns, "gone", func(s []*corev1.Endpoints) bool { return len(s) == 0 })
	eventually(w, client.Events, ns, "told about scaling", func(evs []*corev1.Event) bool {
		return slices.ContainsFunc(evs, func(e *corev1.Event) bool {
			return e.Reason == "ScalingReplicaSet" && e.InvolvedObject.Kind == "Deployment" && strings.HasPrefix(e.Message, "Scaled up replica set web-") && strings.HasSuffix(e.Message, " from 0 to 3")
		})
	})
}

func TestJobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("jobs"), t.Context()
	jobs := client.Jobs.In(w.root, ns)
	make := func(name, image string, change func(*batchv1.JobSpec)) {
		t.Helper()
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		j.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
		if change != nil {
			change(&j.Spec)
		}
		_, err := jobs.Create(ctx, j)
		w.must(err)
	}
	is := func(t batchv1.JobConditionType, reason string) func(*batchv1.Job) bool {
		return func(j *batchv1.Job) bool {
			return j != nil && slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
				return c.Type == t && c.Status == corev1.ConditionTrue && c.Reason == reason
			})
		}
	}
	make("one", "done", nil)
	j := object(w, client.Jobs, ns, "one", "complete", is(batchv1.JobComplete, "CompletionsReached"))
	if j.Status.Succeeded != 1 || j.Status.CompletionTime == nil || j.Status.StartTime == nil {
		t.Errorf("status %+v", j.Status)
	}
	make("indexed", "done", func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = ptr.To[int32](5), ptr.To[int32](2), ptr.To(batchv1.IndexedCompletion)
	})
	j = object(w, client.Jobs, ns, "indexed", "complete", is(batchv1.JobComplete, "CompletionsReached"))
	if j.Status.Succeeded != 5 || j.Status.CompletedIndexes != "0-4" {
		t.Errorf("status %+v", j.Status)
	}
	make("hopeless", "fail", func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To[int32](0) })
	j = object(w, client.Jobs, ns, "hopeless", "failed", is(batchv1.JobFailed, "BackoffLimitExceeded"))
	if j.Status.Failed != 1 {
		t.Errorf("status %+v", j.Status)
	}
	make("late", "v1", func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](1) })
	object(w, client.Jobs, ns, "late", "failed", is(batchv1.JobFailed, "DeadlineExceeded"))
	make("delegated", "done", func(s *batchv1.JobSpec) { s.ManagedBy = ptr.To("example.com/other") })
	w.elastic(ns, make)
	make("paused", "done", func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) })
	object(w, client.Jobs, ns, "paused", "suspended", is(batchv1.JobSuspended, "JobSuspended"))
	_, err := jobs.Mutate(ctx, "paused", "", func(j *batchv1.Job) (bool, error) { j.Spec.Suspend = ptr.To(false); return true, nil })
	w.must(err)
	object(w, client.Jobs, ns, "paused", "complete", is(batchv1.JobComplete, "CompletionsReached"))
	make("short", "done", func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](0) })
	object(w, client.Jobs, ns, "short", "gone after its end", func(j *batchv1.Job) bool { return j == nil })
	// No pod keeps the finalizer beyond its Job's end.
	eventually(w, client.Pods, ns, "released", func(ps []*corev1.Pod) bool {
		return !slices.ContainsFunc(ps, func(p *corev1.Pod) bool { return len(p.Finalizers) > 0 })
	})
}
