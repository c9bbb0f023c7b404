package actions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// maxDisruptedPods bounds the record of evictions that the disruption
// controller has not yet seen, as upstream does.
const maxDisruptedPods = 2000

// Eviction carries out a create of pods/eviction: it takes the disruption
// from the pod's budget and deletes the pod, or answers 429 when the budget
// is exhausted. It acts through loopback, a door with full rights, since the
// right to evict does not include the right to delete. See the API page
// "API-initiated Eviction".
// What it notes in the pod goes straight to pods, the store of the pods: it is
// nobody's field.
func Eviction(loopback client.Interface, pods store.Interface, now func() time.Time) func(ctx context.Context, req *client.Request) (*client.Result, error) {
	e := evictor{c: loopback, pods: pods, now: now}
	return e.evict
}

type evictor struct {
	c    client.Interface
	pods store.Interface
	now  func() time.Time
}

func (e *evictor) evict(ctx context.Context, req *client.Request) (*client.Result, error) {
	ev, ok := req.Object.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an Eviction object: %T", req.Object))
	}
	if ev.Name != "" && ev.Name != req.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	opts := client.Options{DryRun: req.Options.DryRun}
	if d := ev.DeleteOptions; d != nil {
		opts.GracePeriodSeconds, opts.PropagationPolicy, opts.Preconditions = d.GracePeriodSeconds, d.PropagationPolicy, d.Preconditions
		opts.DryRun = opts.DryRun || len(d.DryRun) > 0
	}
	for {
		again, err := e.try(ctx, req.Namespace, req.Name, opts)
		if err != nil {
			return nil, err
		}
		if !again {
			return &client.Result{Created: true, Object: &metav1.Status{
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: 201,
			}}, nil
		}
		if ctx.Err() != nil {
			return nil, apierrors.NewTimeoutError("the eviction did not finish in time", 1)
		}
	}
}

// try makes one attempt; again says that something changed meanwhile.
func (e *evictor) try(ctx context.Context, namespace, name string, opts client.Options) (again bool, err error) {
	pods := client.Pods.In(e.c, namespace)
	pod, err := pods.Get(ctx, name)
	if err != nil {
		return false, err
	}
	if ignoresBudgets(pod) {
		return false, e.remove(ctx, pod, opts)
	}
	budgets, _, err := client.PodDisruptionBudgets.In(e.c, namespace).List(ctx, client.Options{})
	if err != nil {
		return false, err
	}
	matching, err := matchingBudgets(pod, budgets)
	if err != nil {
		return false, err
	}
	if len(matching) == 0 {
		return false, e.remove(ctx, pod, opts)
	}
	if len(matching) > 1 {
		return false, apierrors.NewInternalError(fmt.Errorf("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
	}
	pdb := matching[0]
	if unhealthyMayGo(pod, pdb) {
		// Only if the pod is still the unhealthy one that was looked at.
		guarded := opts
		pre := metav1.Preconditions{ResourceVersion: &pod.ResourceVersion}
		if opts.Preconditions != nil {
			pre.UID = opts.Preconditions.UID
			if opts.Preconditions.ResourceVersion != nil {
				pre.ResourceVersion = opts.Preconditions.ResourceVersion
			}
		}
		guarded.Preconditions = &pre
		err := e.remove(ctx, pod, guarded)
		if apierrors.IsConflict(err) && opts.Preconditions == nil {
			return true, nil
		}
		return false, err
	}
	if err := checkBudget(pdb); err != nil {
		return false, err
	}
	if !opts.DryRun {
		taken := pdb.DeepCopy()
		if taken.Status.DisruptionsAllowed--; taken.Status.DisruptionsAllowed == 0 {
			meta.SetStatusCondition(&taken.Status.Conditions, metav1.Condition{
				Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
				Reason: policyv1.InsufficientPodsReason, ObservedGeneration: taken.Status.ObservedGeneration,
			})
		}
		if taken.Status.DisruptedPods == nil {
			taken.Status.DisruptedPods = map[string]metav1.Time{}
		}
		taken.Status.DisruptedPods[pod.Name] = metav1.NewTime(e.now())
		_, err := client.PodDisruptionBudgets.In(e.c, namespace).UpdateStatus(ctx, taken)
		if apierrors.IsConflict(err) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, e.remove(ctx, pod, opts)
}

// remove notes in the pod's status why it goes, for Jobs and whoever else
// tells disruptions from failures, and deletes it.
func (e *evictor) remove(ctx context.Context, pod *corev1.Pod, opts client.Options) error {
	pods := client.Pods.In(e.c, pod.Namespace)
	if pre := opts.Preconditions; !opts.DryRun && (pre == nil || pre.UID == nil || *pre.UID == pod.UID) {
		marked, err := e.mark(ctx, pod, pre != nil && pre.ResourceVersion != nil)
		if err != nil {
			return err
		}
		if pre != nil && pre.ResourceVersion != nil && *pre.ResourceVersion == pod.ResourceVersion {
			opts.Preconditions = &metav1.Preconditions{UID: pre.UID, ResourceVersion: &marked.ResourceVersion}
		}
	}
	return pods.Delete(ctx, pod.Name, opts)
}

// mark sets the condition DisruptionTarget. Unless exact, it does so on
// whatever the pod has become meanwhile.
func (e *evictor) mark(ctx context.Context, pod *corev1.Pod, exact bool) (*corev1.Pod, error) {
	entry, err := e.pods.Update(ctx, pod.Namespace+"/"+pod.Name, false, func(cur *store.Entry) (runtime.Object, error) {
		now := cur.Object.(*corev1.Pod)
		switch {
		case now.UID != pod.UID:
			return nil, apierrors.NewConflict(corev1.Resource("pods"), pod.Name, fmt.Errorf("another pod has taken its name"))
		case exact && now.ResourceVersion != pod.ResourceVersion:
			return nil, apierrors.NewConflict(corev1.Resource("pods"), pod.Name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
		}
		m := now.DeepCopy()
		m.Status.Conditions = slices.DeleteFunc(m.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
		m.Status.Conditions = append(m.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting", LastTransitionTime: metav1.NewTime(e.now().Truncate(time.Second)),
		})
		return m, nil
	})
	if err != nil {
		return nil, err
	}
	return entry.Object.(*corev1.Pod), nil
}

// ignoresBudgets says that deleting the pod disrupts nothing.
func ignoresBudgets(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

func matchingBudgets(pod *corev1.Pod, all []*policyv1.PodDisruptionBudget) ([]*policyv1.PodDisruptionBudget, error) {
	var out []*policyv1.PodDisruptionBudget
	for _, pdb := range all {
		sel, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("selector of PodDisruptionBudget %s: %w", pdb.Name, err))
		}
		if sel.Matches(labels.Set(pod.Labels)) {
			out = append(out, pdb)
		}
	}
	return out, nil
}

// unhealthyMayGo applies the budget's unhealthyPodEvictionPolicy.
func unhealthyMayGo(pod *corev1.Pod, pdb *policyv1.PodDisruptionBudget) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	if p := pdb.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return pdb.Status.CurrentHealthy >= pdb.Status.DesiredHealthy && pdb.Status.DesiredHealthy > 0
}

func checkBudget(pdb *policyv1.PodDisruptionBudget) error {
	tooMany := func(message string) error {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: message})
		return err
	}
	switch s := pdb.Status; {
	case s.ObservedGeneration < pdb.Generation:
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", pdb.Name),
		})
		return err
	case s.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), pdb.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case len(s.DisruptedPods) > maxDisruptedPods:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), pdb.Name, fmt.Errorf("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case s.DisruptionsAllowed == 0:
		return tooMany("The disruption budget " + pdb.Name + " " + whyNone(&s))
	}
	return nil
}

// whyNone says why a budget allows no disruption, as the cause of a 429.
func whyNone(s *policyv1.PodDisruptionBudgetStatus) string {
	failed := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
	switch {
	case failed != nil && failed.Status == metav1.ConditionFalse && failed.Reason == policyv1.SyncFailedReason:
		return "does not allow evicting pods because it failed sync: " + failed.Message
	case s.CurrentHealthy <= s.DesiredHealthy:
		return fmt.Sprintf("needs %d healthy pods and has %d currently", s.DesiredHealthy, s.CurrentHealthy)
	}
	return "does not allow evicting pods currently"
}
