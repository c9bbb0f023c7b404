package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
)

const (
	workers = 5
	byJob   = "job"
	// podKey marks queue keys of pods that have lost their Job.
	podKey = "pod/"
	// builtIn is the manager name under which a Job is ours.
	builtIn = "kubernetes.io/job-controller"
)

// Controller reconciles Jobs.
type Controller struct {
	env   controllers.Env
	jobs  client.Informer[*batchv1.Job]
	pods  client.Informer[*corev1.Pod]
	loop  *client.Loop
	podsW client.Writes
	jobsW client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:  env,
		jobs: client.InformerFor(env.Informers, client.Jobs),
		pods: client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = env.NewLoop("job", c.reconcile)
	return c, errors.Join(
		c.pods.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*corev1.Pod]),
		c.pods.AddIndex(byJob, func(p *corev1.Pod) []string {
			if ref := jobRef(p); ref != nil {
				return []string{p.Namespace + "/" + ref.Name}
			}
			return nil
		}),
		controllers.Follow(c.loop, c.jobs),
		controllers.On(c.pods, c.podChanged),
	)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func jobRef(p *corev1.Pod) *metav1.OwnerReference {
	if ref := metav1.GetControllerOfNoCopy(p); controllers.ControlledBy(ref, client.Jobs.GVK()) {
		return ref
	}
	return nil
}

func (c *Controller) podChanged(p, old *corev1.Pod) {
	for _, x := range [...]*corev1.Pod{p, old} {
		if x == nil {
			continue
		}
		if ref := jobRef(x); ref != nil {
			c.loop.Add(x.Namespace + "/" + ref.Name)
		} else if x == p && hasFinalizer(p) {
			c.loop.Add(podKey + p.Namespace + "/" + p.Name)
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	if pod, ok := strings.CutPrefix(key, podKey); ok {
		if p, ok := c.pods.GetKey(pod); ok && hasFinalizer(p) && jobRef(p) == nil {
			return 0, c.release(ctx, pod, p)
		}
		return 0, nil
	}
	j, ok := c.jobs.GetKey(key)
	if !ok {
		c.podsW.Forget(key)
		c.jobsW.Forget(key)
		return 0, c.releaseAll(ctx, key, "")
	}
	if m := j.Spec.ManagedBy; m != nil && *m != builtIn {
		return 0, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return 0, nil // validation refuses it
	}
	if err := controllers.Settle(ctx, c.env.Client, client.Pods, &c.podsW, key, j, sel); err != nil {
		return 0, err
	}
	if !c.pods.CaughtUp(&c.podsW, key) || !c.jobs.CaughtUp(&c.jobsW, key) {
		return 0, nil // the event that is still to come wakes us
	}
	if err := c.releaseAll(ctx, key, j.UID); err != nil {
		return 0, err
	}
	owned, err := c.claim(ctx, key, j, sel)
	if err != nil {
		return 0, fmt.Errorf("claiming pods: %w", err)
	}
	plan := Make(j, owned, c.env.Clock.Now())
	err = c.apply(ctx, key, j, &plan)
	if controllers.NamespaceEnding(err) {
		return 0, nil
	}
	return plan.Again, err
}

func (c *Controller) claim(ctx context.Context, key string, j *batchv1.Job, sel labels.Selector) ([]*corev1.Pod, error) {
	candidates := c.pods.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(j.UID)))
	if !Finished(j) {
		candidates = append(candidates, c.pods.ByIndex(controllers.OwnerIndex, controllers.OrphansIn(j.Namespace))...)
	}
	owner := metav1.NewControllerRef(j, client.Jobs.GVK())
	return controllers.ApplyClaim(ctx, c.env.Client, client.Pods, *owner, j.Namespace, controllers.Claims(j, sel, candidates),
		func(ctx context.Context) (metav1.Object, error) {
			return client.Jobs.In(c.env.Client, j.Namespace).Get(ctx, j.Name)
		},
		func(p *corev1.Pod) { c.podsW.Wrote(key, p) })
}

// releaseAll frees the pods of a Job of this name that is gone: all but
// those of the one with the UID.
func (c *Controller) releaseAll(ctx context.Context, key string, but types.UID) error {
	for _, p := range c.pods.ByIndex(byJob, key) {
		if hasFinalizer(p) && jobRef(p).UID != but {
			if err := c.release(ctx, key, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Controller) apply(ctx context.Context, key string, j *batchv1.Job, plan *Plan) error {
	for _, p := range plan.Track {
		if err := c.setFinalizers(ctx, key, p, append(slices.Clone(p.Finalizers), batchv1.JobTrackingFinalizer)); err != nil {
			return err
		}
	}
	deleteErr := controllers.Each(len(plan.Delete), func(i int) error { return c.delete(ctx, key, j, plan.Delete[i]) })
	owner := metav1.NewControllerRef(j, client.Jobs.GVK())
	made, createErr := controllers.SlowStart(len(plan.Create), func(i int) error { return c.create(ctx, key, j, owner, plan.Create[i]) })
	plan.Status.Active -= int32(len(plan.Create) - made)
	if err := c.writeStatus(ctx, key, j, plan); err != nil {
		return err
	}
	releaseErr := controllers.Each(len(plan.Release), func(i int) error { return c.release(ctx, key, plan.Release[i]) })
	for _, err := range [...]error{createErr, deleteErr, releaseErr} {
		if err != nil {
			return err
		}
	}
	return nil
}

// count notes that the Job has ended.
func (c *Controller) count(j *batchv1.Job) {
	mode := batchv1.NonIndexedCompletion
	if j.Spec.CompletionMode != nil {
		mode = *j.Spec.CompletionMode
	}
	for _, cond := range j.Status.Conditions {
		if cond.Status == corev1.ConditionTrue && (cond.Type == batchv1.JobComplete || cond.Type == batchv1.JobFailed) {
			c.env.Counts.JobFinished(string(mode), cond.Reason, cond.Type == batchv1.JobComplete)
		}
	}
}

func (c *Controller) writeStatus(ctx context.Context, key string, j *batchv1.Job, plan *Plan) error {
	if !apiequality.Semantic.DeepEqual(j.Status, plan.Status) {
		m := j.DeepCopy()
		m.Status = plan.Status
		got, err := client.Jobs.In(c.env.Client, j.Namespace).UpdateStatus(ctx, m)
		if err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("updating status: %w", err)
		}
		c.jobsW.Wrote(key, got)
		if Finished(got) && !Finished(j) {
			c.count(got)
		}
	}
	for _, e := range plan.Events {
		c.env.Events.Event(j, e.Type, e.Reason, e.Message)
	}
	return nil
}

func (c *Controller) create(ctx context.Context, key string, j *batchv1.Job, owner *metav1.OwnerReference, n NewPod) error {
	got, err := controllers.Create(ctx, c.env.Client, client.Pods, &c.podsW, key, newPod(j, owner, n))
	if err != nil {
		if controllers.NamespaceEnding(err) {
			return err
		}
		c.env.Events.Eventf(j, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return fmt.Errorf("creating pod: %w", err)
	}
	c.env.Events.Eventf(j, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", got.Name)
	return nil
}

// newPod makes the pod of an index, which it learns from a label, an
// annotation, its host name and a variable.
func newPod(j *batchv1.Job, owner *metav1.OwnerReference, n NewPod) *corev1.Pod {
	p := pods.FromTemplate(&j.Spec.Template, j.Namespace, j.Name, owner)
	p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	if n.Index < 0 {
		return p
	}
	index := strconv.Itoa(n.Index)
	p.GenerateName = j.Name + "-" + index + "-"
	set := func(m *map[string]string, k, v string) {
		if *m = maps.Clone(*m); *m == nil {
			*m = map[string]string{}
		}
		(*m)[k] = v
	}
	set(&p.Annotations, batchv1.JobCompletionIndexAnnotation, index)
	set(&p.Labels, batchv1.JobCompletionIndexAnnotation, index)
	if j.Spec.BackoffLimitPerIndex != nil {
		set(&p.Annotations, batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(int(n.Failures)))
		if n.Ignored > 0 {
			set(&p.Annotations, batchv1.JobIndexIgnoredFailureCountAnnotation, strconv.Itoa(int(n.Ignored)))
		}
	}
	p.Spec.Hostname = j.Name + "-" + index
	for _, list := range [...][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			addIndexVariable(&list[i])
		}
	}
	return p
}

func addIndexVariable(c *corev1.Container) {
	const name = "JOB_COMPLETION_INDEX"
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']",
	}}})
}

func (c *Controller) delete(ctx context.Context, key string, j *batchv1.Job, p *corev1.Pod) error {
	done, err := controllers.Delete(ctx, c.env.Client, client.Pods, &c.podsW, key, p, client.Options{})
	if err == nil {
		if done {
			c.env.Events.Eventf(j, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
		}
		return nil
	}
	c.env.Events.Eventf(j, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	return fmt.Errorf("deleting pod %s: %w", p.Name, err)
}

func (c *Controller) release(ctx context.Context, key string, p *corev1.Pod) error {
	return c.setFinalizers(ctx, key, p, slices.DeleteFunc(slices.Clone(p.Finalizers), func(f string) bool { return f == batchv1.JobTrackingFinalizer }))
}

func (c *Controller) setFinalizers(ctx context.Context, key string, p *corev1.Pod, finalizers []string) error {
	if finalizers == nil {
		finalizers = []string{}
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.UID, "resourceVersion": p.ResourceVersion, "finalizers": finalizers,
	}})
	if err != nil {
		return err
	}
	got, err := client.Pods.In(c.env.Client, p.Namespace).Patch(ctx, p.Name, types.MergePatchType, data)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("changing the finalizers of pod %s: %w", p.Name, err)
	}
	if got != nil {
		c.podsW.Wrote(key, got)
	}
	return nil
}
