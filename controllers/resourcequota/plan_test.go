package resourcequota

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/quota"
)

func TestStatus(t *testing.T) {
	q := &corev1.ResourceQuota{}
	q.Spec.Hard = corev1.ResourceList{}
	for _, n := range []corev1.ResourceName{"pods", "requests.cpu", "count/deployments.apps", "secrets", "services"} {
		q.Spec.Hard[n] = resource.MustParse("10")
	}
	q.Status.Used = corev1.ResourceList{"secrets": resource.MustParse("3")}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")}}}}}}
	done := pod.DeepCopy()
	done.Status.Phase = corev1.PodSucceeded
	got := Status(q, func(gr schema.GroupResource) ([]any, bool) {
		switch gr.Resource {
		case "pods":
			return []any{pod, pod, done}, true
		case "deployments":
			return []any{nil}, true
		}
		return nil, gr.Resource != "secrets"
	}, time.Now())
	if want := "count/deployments.apps=1,pods=2,requests.cpu=500m,secrets=3,services=0"; quota.Text(got.Used) != want {
		t.Errorf("got %s, want %s", quota.Text(got.Used), want)
	}
	if quota.Text(got.Hard) != quota.Text(q.Spec.Hard) {
		t.Errorf("hard is %v", got.Hard)
	}
	gr := schema.GroupResource{Resource: "pods"}
	if !shrank(gr, done, pod, time.Now()) || shrank(gr, pod, pod, time.Now()) || shrank(gr, pod, done, time.Now()) {
		t.Error("a pod gives back its share when it ends, and only then")
	}
}

// A pod that gets a deadline leaves the quotas of those without.
func TestMoved(t *testing.T) {
	q := &corev1.ResourceQuota{}
	q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}
	endless, ending := &corev1.Pod{}, &corev1.Pod{Spec: corev1.PodSpec{ActiveDeadlineSeconds: ptr.To[int64](30)}}
	gr := schema.GroupResource{Resource: "pods"}
	if !moved(ending, endless) || moved(ending, ending) || moved(endless, endless) {
		t.Error("only a new deadline moves a pod")
	}
	if n := freed(q, gr, ending, endless, time.Now())["pods"]; n.Value() != 1 {
		t.Errorf("%v pods are given back", n.Value())
	}
	for _, tc := range []struct {
		now, old *string
		want     bool
	}{{ptr.To("a"), ptr.To("b"), true}, {ptr.To("a"), nil, true}, {ptr.To("a"), ptr.To("a"), false}} {
		claim := func(class *string) *corev1.PersistentVolumeClaim {
			return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: class}}
		}
		if got := moved(claim(tc.now), claim(tc.old)); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

// What was charged a moment ago may have no object yet, and what has gone is
// given back all the same.
func TestAtLeastWhatIsCharged(t *testing.T) {
	list := func(n int64) corev1.ResourceList {
		return corev1.ResourceList{"pods": *resource.NewQuantity(n, resource.DecimalSI)}
	}
	for _, tc := range []struct{ counted, recorded, freed, want int64 }{
		{2, 3, 0, 3}, {2, 3, 1, 2}, {1, 3, 1, 2}, {3, 3, 1, 3}, {4, 3, 0, 4}, {0, 1, 2, 0},
	} {
		got := atLeast(list(tc.counted), list(tc.recorded), list(tc.freed))["pods"]
		if got.Value() != tc.want {
			t.Errorf("%+v: %s", tc, got.String())
		}
	}
}

// What is counted, given back and charged at once is told apart: nothing is
// given back twice, and nothing is lowered past a charge that is not seen yet.
func TestLedger(t *testing.T) {
	list := func(n int64) corev1.ResourceList {
		return corev1.ResourceList{"pods": *resource.NewQuantity(n, resource.DecimalSI)}
	}
	const key = "here/some"
	start := time.Unix(1e9, 0)
	for _, tc := range []struct {
		name string
		do   func(l *ledger)
		// version, and what look returns of it after recount.
		version string
		freed   int64
		ahead   time.Duration
	}{
		{"a version of others may be a charge", func(*ledger) {}, "9", 0, recount},
		{"our own is none", func(l *ledger) { l.settle(key, "9", nil, nil, start) }, "9", 0, 0},
		{"what is told is given back", func(l *ledger) { l.free(key, list(2), start) }, "8", 2, 0},
		{"once", func(l *ledger) {
			l.free(key, list(2), start)
			l.settle(key, "8", list(2), nil, start)
		}, "8", 0, 0},
		{"what is counted before it is told is not given back again", func(l *ledger) {
			l.settle(key, "8", list(0), list(2), start)
			l.free(key, list(1), start)
			l.free(key, list(1), start)
			l.free(key, list(3), start)
		}, "8", 3, 0},
		{"nor what is told while it is counted", func(l *ledger) {
			l.free(key, list(1), start)
			l.settle(key, "8", list(0), list(1), start)
		}, "8", 0, 0},
		{"a count of long ago has no part in it", func(l *ledger) {
			l.settle(key, "8", list(0), list(2), start)
			l.free(key, list(1), start.Add(recount))
		}, "8", 1, 0},
		{"what may have been written is not given back again", func(l *ledger) {
			l.free(key, list(1), start)
			l.doubt(key, start.Add(recount))
		}, "8", 0, recount},
	} {
		var l ledger
		l.saw(key, "8", start)
		tc.do(&l)
		freed, ahead := l.look(key, tc.version, start.Add(recount))
		if n := freed["pods"]; n.Value() != tc.freed || ahead != tc.ahead {
			t.Errorf("%s: %s freed, ahead for %v", tc.name, n.String(), ahead)
		}
	}
	got := unexplained(list(2), list(5), list(1))["pods"]
	if got.Value() != 2 {
		t.Errorf("of 5 on record 2 are counted and 1 was given back: %s", got.String())
	}
}
