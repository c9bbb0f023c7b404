package scheduler

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// makeRoom plans a preemption for a pod that no node takes and holds its
// place there; without a plan it says why, in upstream's words.
func (s *Scheduler) makeRoom(p *Pod, profile *Profile) (*Preemption, string) {
	budgets := s.budgets.List("", nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, holds := s.nominated[p.UID]; holds {
		s.snapshot.RemovePod(p.UID)
		defer func() {
			if s.nominated[p.UID] == held {
				s.snapshot.SetPod(p, held)
			}
		}()
	}
	// Where nothing of lower priority runs anywhere there is nothing to plan,
	// and no reason node by node is needed.
	node, d := s.classes.of(p, profile, s.snapshot).place(p, profile, s.snapshot, true)
	if node != nil || d.Nodes == 0 {
		return nil, ""
	}
	begin := s.clock.Now()
	plan, why := preempt(p, d, profile, s.snapshot, budgets, s.nominated)
	status, counts := "Success", s.cfg.Counts.ofScheduling()
	if plan == nil {
		status = "Unschedulable"
	}
	counts.point("PostFilter", profile.Name, status, s.clock.Since(begin))
	counts.preempted(plan)
	if plan == nil {
		return nil, why
	}
	for _, other := range plan.Displaced {
		s.snapshot.RemovePod(other.UID)
		delete(s.nominated, other.UID)
	}
	s.snapshot.SetPod(p, plan.Node)
	s.nominated[p.UID] = plan.Node
	return plan, ""
}

// removeVictims deletes what a plan says, after telling each why.
func (s *Scheduler) removeVictims(ctx context.Context, p *Pod, plan *Preemption) {
	for _, v := range plan.Victims {
		if v.DeletionTimestamp != nil {
			continue
		}
		err := s.removeVictim(ctx, p, v)
		switch {
		case err == nil:
			s.cfg.Recorder.Eventf(v.Pod, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", p.UID, plan.Node)
		case !apierrors.IsNotFound(err) && ctx.Err() == nil:
			s.log.Warn("a pod could not be preempted", "pod", v.Namespace+"/"+v.Name, "for", p.Namespace+"/"+p.Name, "error", err)
		}
	}
}

func (s *Scheduler) removeVictim(ctx context.Context, p, v *Pod) error {
	pods := client.Pods.In(s.cfg.Client, v.Namespace)
	now := metav1.NewTime(s.clock.Now().Truncate(time.Second))
	_, err := pods.Mutate(ctx, v.Name, "status", func(pod *corev1.Pod) (bool, error) {
		if pod.UID != v.UID {
			return false, apierrors.NewNotFound(corev1.Resource("pods"), v.Name)
		}
		pod.Status.Conditions = append(withoutCondition(pod.Status.Conditions, corev1.DisruptionTarget), corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message:            p.Spec.SchedulerName + ": preempting to accommodate a higher priority pod",
			LastTransitionTime: now, ObservedGeneration: pod.Generation,
		})
		return true, nil
	})
	if err != nil {
		return err
	}
	return pods.Delete(ctx, v.Name, client.Exactly(v.UID))
}

func withoutCondition(list []corev1.PodCondition, t corev1.PodConditionType) []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range list {
		if c.Type != t {
			out = append(out, c)
		}
	}
	return out
}
