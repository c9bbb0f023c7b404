package job

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// TTL deletes finished Jobs when their ttlSecondsAfterFinished has passed.
type TTL struct {
	env  controllers.Env
	jobs client.Informer[*batchv1.Job]
	loop *client.Loop
}

// NewTTL makes the controller and registers its handlers.
func NewTTL(env controllers.Env) (*TTL, error) {
	c := &TTL{env: env, jobs: client.InformerFor(env.Informers, client.Jobs)}
	c.loop = env.NewLoop("ttl_jobs_to_delete", c.reconcile)
	_, err := c.jobs.OnChange(func(j, _ *batchv1.Job) {
		if j != nil && j.Spec.TTLSecondsAfterFinished != nil && Finished(j) {
			c.loop.AddObject(j)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *TTL) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(2)) }

// deleteIn is how long a Job may stay yet; ok is false when it may for ever.
func deleteIn(j *batchv1.Job, now time.Time) (d time.Duration, ok bool) {
	if j.DeletionTimestamp != nil || j.Spec.TTLSecondsAfterFinished == nil {
		return 0, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second).Sub(now), true
		}
	}
	return 0, false
}

func (c *TTL) reconcile(ctx context.Context, key string) (time.Duration, error) {
	j, ok := c.jobs.GetKey(key)
	if !ok {
		return 0, nil
	}
	d, ok := deleteIn(j, c.env.Clock.Now())
	if !ok || d > 0 {
		return d, nil
	}
	uid, rv, foreground := j.UID, j.ResourceVersion, metav1.DeletePropagationForeground
	err := client.Jobs.In(c.env.Client, j.Namespace).Delete(ctx, j.Name, client.Options{
		PropagationPolicy: &foreground, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &rv},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("deleting finished job: %w", err)
	}
	return 0, nil
}
