package cronjob

import (
	"context"
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 5

// Controller reconciles CronJobs.
type Controller struct {
	env   controllers.Env
	crons client.Informer[*batchv1.CronJob]
	jobs  client.Informer[*batchv1.Job]
	loop  *client.Loop
	jobsW client.Writes
	ownW  client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:   env,
		crons: client.InformerFor(env.Informers, client.CronJobs),
		jobs:  client.InformerFor(env.Informers, client.Jobs),
	}
	c.loop = env.NewLoop("cronjob", c.reconcile)
	return c, errors.Join(
		c.jobs.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*batchv1.Job]),
		controllers.Follow(c.loop, c.crons),
		controllers.OnEach(c.jobs, func(j *batchv1.Job) {
			if ref := metav1.GetControllerOfNoCopy(j); controllers.ControlledBy(ref, client.CronJobs.GVK()) {
				c.loop.Add(j.Namespace + "/" + ref.Name)
			}
		}),
	)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	cj, ok := c.crons.GetKey(key)
	if !ok {
		c.jobsW.Forget(key)
		c.ownW.Forget(key)
		return 0, nil
	}
	if err := controllers.Settle(ctx, c.env.Client, client.Jobs, &c.jobsW, key, cj, nil); err != nil {
		return 0, err
	}
	if !c.jobs.CaughtUp(&c.jobsW, key) || !c.crons.CaughtUp(&c.ownW, key) {
		return 0, nil // the event that is still to come wakes us
	}
	plan := Make(cj, c.jobs.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(cj.UID))), c.env.Clock.Now())
	for _, e := range plan.Events {
		c.env.Events.Event(cj, e.Type, e.Reason, e.Message)
	}
	err := c.apply(ctx, key, cj, &plan)
	if !apiequality.Semantic.DeepEqual(cj.Status, plan.Status) {
		m := cj.DeepCopy()
		m.Status = plan.Status
		got, werr := client.CronJobs.In(c.env.Client, cj.Namespace).UpdateStatus(ctx, m)
		switch {
		case apierrors.IsNotFound(werr):
		case werr != nil:
			return 0, fmt.Errorf("updating status: %w", werr)
		default:
			c.ownW.Wrote(key, got)
		}
	}
	if controllers.NamespaceEnding(err) {
		return 0, nil
	}
	return plan.Again, err
}

func (c *Controller) apply(ctx context.Context, key string, cj *batchv1.CronJob, plan *Plan) error {
	for _, j := range plan.History {
		if err := c.delete(ctx, key, cj, j); err != nil {
			return err
		}
	}
	for _, j := range plan.Replaced {
		if err := c.delete(ctx, key, cj, j); err != nil {
			return err
		}
		for i, ref := range plan.Status.Active {
			if ref.UID == j.UID {
				plan.Status.Active = append(plan.Status.Active[:i:i], plan.Status.Active[i+1:]...)
				break
			}
		}
	}
	if plan.Start == nil {
		return nil
	}
	got, err := c.start(ctx, cj, plan.Start)
	if err != nil {
		return err
	}
	if got != nil {
		c.env.Counts.CronJobStarted(got.CreationTimestamp.Sub(plan.At))
		c.jobsW.Wrote(key, got)
		plan.Status.Active = append(plan.Status.Active, reference(got))
	}
	plan.Status.LastScheduleTime = &metav1.Time{Time: plan.At}
	return nil
}

// start makes the Job. One that an earlier try made, whose status was not
// written, is taken as made now unless it has ended since.
func (c *Controller) start(ctx context.Context, cj *batchv1.CronJob, j *batchv1.Job) (*batchv1.Job, error) {
	name := j.Name
	res := client.Jobs.In(c.env.Client, cj.Namespace)
	got, err := res.Create(ctx, j)
	if apierrors.IsAlreadyExists(err) {
		there, getErr := res.Get(ctx, name)
		if getErr != nil {
			return nil, getErr
		}
		if ref := metav1.GetControllerOfNoCopy(there); ref == nil || ref.UID != cj.UID {
			c.env.Events.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
			return nil, fmt.Errorf("job %s is not this cron job's: %w", name, err)
		}
		if ended(there) != "" {
			return nil, nil
		}
		return there, nil
	}
	if err != nil {
		if !controllers.NamespaceEnding(err) {
			c.env.Events.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		}
		return nil, fmt.Errorf("creating job %s: %w", name, err)
	}
	c.env.Events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", got.Name)
	return got, nil
}

func (c *Controller) delete(ctx context.Context, key string, cj *batchv1.CronJob, j *batchv1.Job) error {
	background := metav1.DeletePropagationBackground
	done, err := controllers.Delete(ctx, c.env.Client, client.Jobs, &c.jobsW, key, j, client.Options{PropagationPolicy: &background})
	if err == nil {
		if done {
			c.env.Events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", j.Name)
		}
		return nil
	}
	c.env.Events.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
	return fmt.Errorf("deleting job %s: %w", j.Name, err)
}
