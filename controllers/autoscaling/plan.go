// Package autoscaling sizes the targets of HorizontalPodAutoscalers:
// autoscalers, their targets' scales, pods and metrics in; the target's new
// size and the autoscaler's status out.
package autoscaling

import (
	"fmt"
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Settings are what upstream's flags --horizontal-pod-autoscaler-* say.
type Settings struct {
	// SyncPeriod is how often an autoscaler's metrics are looked at.
	SyncPeriod time.Duration
	// Tolerance is by how much a ratio of use to target may differ from one,
	// and DownscaleStabilization how long a recommendation holds a scale-down
	// up, where the behaviour names none.
	Tolerance              float64
	DownscaleStabilization time.Duration
	// CPUInitialization is how long after a pod's start its CPU use may be left
	// out, InitialReadiness how long after it readiness is that of its start.
	CPUInitialization, InitialReadiness time.Duration
}

// Defaults are the settings of upstream's flags where they are not given.
func Defaults() Settings {
	return Settings{SyncPeriod: 15 * time.Second, Tolerance: 0.1, DownscaleStabilization: 5 * time.Minute, CPUInitialization: 5 * time.Minute, InitialReadiness: 30 * time.Second}
}

// Autoscaler is what is planned for: an object, which is read only, and the
// settings of all.
type Autoscaler struct {
	*autoscalingv2.HorizontalPodAutoscaler
	Settings
}

// Proposal is what one metric asks for.
type Proposal struct {
	Replicas int32
	Name     string // for messages
	Status   autoscalingv2.MetricStatus
	// Reason and Err say why the metric could not be had, Lost what it was
	// that could not.
	Reason, Lost string
	Err          error
}

// Change is a size that was set or recommended, kept for windows.
type Change struct {
	At       time.Time
	Replicas int32 // the recommendation, or by how many the size changed
}

// History is what the controller remembers of an autoscaler: it is lost with
// the process, as upstream's is.
type History struct {
	Recommendations []Change
	Ups, Downs      []Change
}

// Plan is what one reconcile does.
type Plan struct {
	Replicas int32
	Rescale  bool
	Reason   string // of the rescale
	// Disabled: the target's size is zero by hand.
	Disabled bool
	Failed   *Proposal // why nothing can be said
	Status   autoscalingv2.HorizontalPodAutoscalerStatus
}

// Make plans for an autoscaler. current and specified are the observed and
// the asked-for size of its target. It adds to the history.
func Make(hpa Autoscaler, current, specified int32, proposals []Proposal, h *History, now time.Time) Plan {
	plan := Plan{Replicas: specified, Status: *hpa.Status.DeepCopy()}
	st := &plan.Status
	st.ObservedGeneration, st.CurrentReplicas = &hpa.Generation, current
	set := func(t autoscalingv2.HorizontalPodAutoscalerConditionType, ok bool, reason, message string) {
		SetCondition(st, t, ok, reason, message, now)
	}
	set(autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	low, high := int32(1), hpa.Spec.MaxReplicas
	if hpa.Spec.MinReplicas != nil {
		low = *hpa.Spec.MinReplicas
	}
	switch {
	case specified == 0 && low != 0:
		plan.Disabled, plan.Replicas, st.DesiredReplicas = true, 0, 0
		set(autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return plan
	case specified > high:
		plan.Replicas, plan.Reason = high, "Current number of replicas above Spec.MaxReplicas"
	case specified < low:
		plan.Replicas, plan.Reason = low, "Current number of replicas below Spec.MinReplicas"
	default:
		best, failed := highest(proposals)
		// What could not be had keeps its place, empty.
		st.CurrentMetrics = make([]autoscalingv2.MetricStatus, len(proposals))
		for i := range proposals {
			if proposals[i].Err == nil {
				st.CurrentMetrics[i] = proposals[i].Status
			}
		}
		// A metric that is missing may hold a scale-down up, never a scale-up.
		// What was desired before stays so.
		if failed != nil && (best == nil || best.Replicas < specified) {
			plan.Failed = failed
			set(autoscalingv2.ScalingActive, false, failed.Reason, "the HPA was unable to compute the replica count: "+failed.Err.Error())
			return plan
		}
		if best == nil {
			st.DesiredReplicas = specified
			return plan
		}
		set(autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+best.Name)
		plan.Replicas = limit(hpa, specified, best.Replicas, low, high, h, now, set)
		plan.Reason = "All metrics below target"
		if plan.Replicas > specified {
			plan.Reason = best.Name + " above target"
		}
	}
	st.DesiredReplicas = plan.Replicas
	plan.Rescale = plan.Replicas != specified
	if plan.Rescale {
		set(autoscalingv2.AbleToScale, true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", plan.Replicas))
		st.LastScaleTime = &metav1.Time{Time: now}
		change := Change{At: now, Replicas: plan.Replicas - specified}
		if change.Replicas > 0 {
			h.Ups = append(h.Ups, change)
		} else {
			change.Replicas = -change.Replicas
			h.Downs = append(h.Downs, change)
		}
	}
	return plan
}

func highest(ps []Proposal) (best, failed *Proposal) {
	for i := range ps {
		p := &ps[i]
		switch {
		case p.Err != nil && failed == nil:
			failed = p
		case p.Err == nil && (best == nil || p.Replicas > best.Replicas):
			best = p
		}
	}
	return best, failed
}

// limit applies the windows, the policies and the bounds to what the metrics
// ask for (KEP-853).
func limit(hpa Autoscaler, current, want, low, high int32, h *History, now time.Time,
	set func(autoscalingv2.HorizontalPodAutoscalerConditionType, bool, string, string)) int32 {
	up, down := Rules(hpa)
	stable := stabilized(h, want, current, window(up), window(down), now)
	switch {
	case stable < want:
		set(autoscalingv2.AbleToScale, true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	case stable > want:
		set(autoscalingv2.AbleToScale, true, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	default:
		set(autoscalingv2.AbleToScale, true, "ReadyForNewScale", "recommended size matches current size")
	}
	switch {
	case stable > current:
		if most := ceiling(up, current, h, now); stable > most {
			stable = max(most, current)
			if stable < high {
				set(autoscalingv2.ScalingLimited, true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
				return max(stable, low)
			}
		}
	case stable < current:
		if least := floor(down, current, h, now); stable < least {
			stable = min(least, current)
			if stable > low {
				set(autoscalingv2.ScalingLimited, true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
				return min(stable, high)
			}
		}
	}
	switch {
	case stable > high:
		set(autoscalingv2.ScalingLimited, true, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
	case stable < low:
		set(autoscalingv2.ScalingLimited, true, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
	default:
		set(autoscalingv2.ScalingLimited, false, "DesiredWithinRange", "the desired count is within the acceptable range")
	}
	return min(max(stable, low), high)
}

// Rules are the autoscaler's behaviour with the defaults of the API filled
// in.
func Rules(hpa Autoscaler) (up, down autoscalingv2.HPAScalingRules) {
	zero, slow, most := int32(0), int32(hpa.DownscaleStabilization/time.Second), autoscalingv2.MaxChangePolicySelect
	up = autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &zero, SelectPolicy: &most, Policies: []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, {Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	}}
	down = autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &slow, SelectPolicy: &most, Policies: []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	}}
	merge := func(to *autoscalingv2.HPAScalingRules, from *autoscalingv2.HPAScalingRules) {
		if from == nil {
			return
		}
		if from.StabilizationWindowSeconds != nil {
			to.StabilizationWindowSeconds = from.StabilizationWindowSeconds
		}
		if from.SelectPolicy != nil {
			to.SelectPolicy = from.SelectPolicy
		}
		if from.Policies != nil {
			to.Policies = from.Policies
		}
		to.Tolerance = from.Tolerance
	}
	if b := hpa.Spec.Behavior; b != nil {
		merge(&up, b.ScaleUp)
		merge(&down, b.ScaleDown)
	}
	return up, down
}

func window(r autoscalingv2.HPAScalingRules) time.Duration {
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}

// stabilized is the smallest recommendation of the window of growth when
// growing, the largest of the window of shrinking when shrinking.
func stabilized(h *History, want, current int32, up, down time.Duration, now time.Time) int32 {
	least, most := want, want
	for _, r := range h.Recommendations {
		if now.Sub(r.At) < up {
			least = min(least, r.Replicas)
		}
		if now.Sub(r.At) < down {
			most = max(most, r.Replicas)
		}
	}
	keep := max(up, down)
	h.Recommendations = slices.DeleteFunc(h.Recommendations, func(r Change) bool { return now.Sub(r.At) >= keep })
	h.Recommendations = append(h.Recommendations, Change{At: now, Replicas: want})
	return max(min(current, most), least)
}

// ceiling is how many the policies of growth allow.
func ceiling(r autoscalingv2.HPAScalingRules, current int32, h *History, now time.Time) int32 {
	return bound(r, current, h, now, +1)
}

// floor is how few the policies of shrinking allow.
func floor(r autoscalingv2.HPAScalingRules, current int32, h *History, now time.Time) int32 {
	return bound(r, current, h, now, -1)
}

func bound(r autoscalingv2.HPAScalingRules, current int32, h *History, now time.Time, sign int32) int32 {
	if *r.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var out []int32
	for _, p := range r.Policies {
		within := time.Duration(p.PeriodSeconds) * time.Second
		start := current - sum(h.Ups, now, within) + sum(h.Downs, now, within)
		if p.Type == autoscalingv2.PodsScalingPolicy {
			out = append(out, saturated(float64(start)+float64(sign)*float64(p.Value)))
			continue
		}
		part := float64(start) * float64(p.Value) / 100
		if sign > 0 {
			out = append(out, saturated(math.Ceil(float64(start)+part)))
		} else {
			out = append(out, saturated(math.Trunc(float64(start)-part)))
		}
	}
	if len(out) == 0 {
		return current
	}
	if (*r.SelectPolicy == autoscalingv2.MaxChangePolicySelect) == (sign > 0) {
		return slices.Max(out)
	}
	return slices.Min(out)
}

func sum(changes []Change, now time.Time, within time.Duration) (n int32) {
	for _, c := range changes {
		if now.Sub(c.At) < within {
			n += c.Replicas
		}
	}
	return n
}

// SetCondition puts a condition into the status; its time moves only with its
// status.
func SetCondition(st *autoscalingv2.HorizontalPodAutoscalerStatus, t autoscalingv2.HorizontalPodAutoscalerConditionType, ok bool, reason, message string, now time.Time) {
	c := autoscalingv2.HorizontalPodAutoscalerCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
	if ok {
		c.Status = corev1.ConditionTrue
	}
	for i := range st.Conditions {
		if have := &st.Conditions[i]; have.Type == t {
			if have.Status == c.Status {
				c.LastTransitionTime = have.LastTransitionTime
			}
			*have = c
			return
		}
	}
	st.Conditions = append(st.Conditions, c)
}
