package disruption

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/controllers/pods"
)

var now = time.Unix(1e9, 0)

func covered(list string) (out []*corev1.Pod) {
	for i, flags := range strings.Fields(list) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if !strings.Contains(flags, "u") {
			pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		}
		if strings.Contains(flags, "n") {
			p.CreationTimestamp = metav1.NewTime(now)
		}
		if strings.Contains(flags, "d") {
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
		out = append(out, p)
	}
	return out
}

func TestMake(t *testing.T) {
	for _, tc := range []struct {
		name     string
		min, max string
		pods     string
		scale    int32
		evicted  map[string]time.Duration // how long ago
		want     string                   // expected desired healthy allowed on record, reason
		again    time.Duration
	}{
		{"none", "1", "", "", 0, nil, "0 1 0 0 0 InsufficientPods", 0},
		{"one to spare", "2", "", "r r r", 0, nil, "3 2 3 1 0 SufficientPods", 0},
		{"unready and deleted do not count", "1", "", "r u rd", 0, nil, "3 1 1 0 0 InsufficientPods", 0},
		{"percentage of what is asked for, rounded up", "50%", "", "r r r", 5, nil, "5 3 3 0 0 InsufficientPods", 0},
		{"max unavailable", "", "1", "r r r", 3, nil, "3 2 3 1 0 SufficientPods", 0},
		{"max unavailable while some are missing", "", "1", "r r", 3, nil, "3 2 2 0 0 InsufficientPods", 0},
		{"max unavailable percentage rounds up", "", "30%", "r r r r", 4, nil, "4 2 4 2 0 SufficientPods", 0},
		{"more than there are", "", "7", "r", 1, nil, "1 0 1 1 0 SufficientPods", 0},
		{"an eviction on record", "1", "", "r r r", 0, map[string]time.Duration{"p0": 30 * time.Second}, "3 1 2 1 1 SufficientPods", 90 * time.Second},
		{"confirmed", "1", "", "rd r r", 0, map[string]time.Duration{"p0": 30 * time.Second}, "3 1 2 1 0 SufficientPods", 0},
		{"overdue", "1", "", "r r", 0, map[string]time.Duration{"p0": 3 * time.Minute}, "2 1 2 1 0 SufficientPods", 0},
		{"gone", "1", "", "r r", 0, map[string]time.Duration{"p9": time.Second}, "2 1 2 1 0 SufficientPods", 0},
		{"behind: not seen yet", "1", "", "r r", 0, map[string]time.Duration{"p9": 30 * time.Second}, "2 1 2 1 1 SufficientPods", 90 * time.Second},
		{"behind: gone for long", "1", "", "r r", 0, map[string]time.Duration{"p9": 2 * time.Minute}, "2 1 2 1 0 SufficientPods", 0},
		{"another of the name", "1", "", "rn r", 0, map[string]time.Duration{"p0": 30 * time.Second}, "2 1 2 1 0 SufficientPods", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Generation: 7}}
			if tc.min != "" {
				b.Spec.MinAvailable = ptr.To(intstr.Parse(tc.min))
			} else {
				b.Spec.MaxUnavailable = ptr.To(intstr.Parse(tc.max))
			}
			b.Status.DisruptedPods = map[string]metav1.Time{}
			for name, ago := range tc.evicted {
				b.Status.DisruptedPods[name] = metav1.NewTime(now.Add(-ago))
			}
			plan, err := Make(b, covered(tc.pods), !strings.HasPrefix(tc.name, "behind"), tc.scale, now)
			if err != nil {
				t.Fatal(err)
			}
			st := plan.Status
			got := fmt.Sprint(st.ExpectedPods, st.DesiredHealthy, st.CurrentHealthy, st.DisruptionsAllowed, len(st.DisruptedPods)) + " " + st.Conditions[0].Reason
			if got != tc.want || plan.Again != tc.again || st.ObservedGeneration != 7 || (tc.name == "overdue") != (len(plan.Overdue) == 1) {
				t.Errorf("%s again %v, want %s again %v", got, plan.Again, tc.want, tc.again)
			}
			// Nothing new is nothing to write.
			b.Status = st
			later, err := Make(b, covered(tc.pods), true, tc.scale, now.Add(time.Second))
			if err != nil || later.Status.Conditions[0] != st.Conditions[0] {
				t.Errorf("second look: %+v %v", later.Status, err)
			}
			if failed := Failed(b, errors.New("why"), now); failed.DisruptionsAllowed != 0 || failed.Conditions[0].Reason != "SyncFailed" || failed.Conditions[0].Message != "why" {
				t.Errorf("%+v", failed)
			}
		})
	}
}
