package scheduler

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
)

// TestCensus: pods are counted where they wait, and by what holds them back;
// how they came there is counted too.
func TestCensus(t *testing.T) {
	counts := NewCounts()
	clock := testingclock.NewFakeClock(time.Unix(0, 0))
	q := NewQueue(clock)
	q.measures = counts.ofScheduling()
	one := func(name string) *Pod {
		return NewPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{SchedulerName: "s"}})
	}
	refuse := func(name string, wakes Event) {
		q.Add(one(name))
		p := q.Next(t.Context())
		if p == nil || p.Name != name {
			t.Fatal(p)
		}
		clock.Step(time.Millisecond)
		if n, began, came, ok := q.attempt(p.UID); !ok || n != 1 || !began.Equal(came) || clock.Since(began) != time.Millisecond {
			t.Fatal(n, began, came, ok)
		}
		q.blame(p.UID, map[string]bool{"NodeResourcesFit": true})
		q.Refused(p.UID, wakes)
	}
	refuse("asleep", NodeAdded)
	refuse("again", 0)
	q.Gate(one("gated").Pod)
	q.Gate(one("gated").Pod) // once more: the same pod
	q.Hold(one("held"), DevicesChanged)
	q.Add(one("waits"))
	c := q.census()
	if c.active != 1 || c.backoff != 1 || c.unschedulable != 1 || c.gated != 2 ||
		c.refused[refusal{"NodeResourcesFit", "s"}] != 2 || c.refused[refusal{"SchedulingGates", "s"}] != 1 {
		t.Errorf("%+v", c)
	}
	q.Add(one("gated"))
	q.Happened(NodeAdded)
	clock.Step(time.Minute)
	for range 4 {
		q.Next(t.Context())
	}
	if c := q.census(); c.active+c.backoff+c.unschedulable != 0 || c.gated != 1 || len(c.refused) != 0 {
		t.Errorf("%+v", c)
	}
	want := map[string]float64{
		"UnschedulablePodAdd/active": 4, "UnschedulablePodAdd/unschedulable": 2, "ScheduleAttemptFailure/unschedulable": 1,
		"ScheduleAttemptFailure/backoff": 1, "NodeAdd/backoff": 1, "BackoffComplete/active": 2,
	}
	for at, n := range samples(t, counts)["scheduler_queue_incoming_pods_total"] {
		if want[at] != n {
			t.Errorf("%s: %v", at, n)
		}
		delete(want, at)
	}
	if len(want) != 0 {
		t.Error(want)
	}
}

// samples are the values of counters and gauges, and the counts of histograms,
// by their label values.
func samples(t *testing.T, c prometheus.Collector) map[string]map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]float64{}
	for _, f := range families {
		out[f.GetName()] = map[string]float64{}
		for _, m := range f.GetMetric() {
			at := ""
			for i, l := range m.GetLabel() {
				if i > 0 {
					at += "/"
				}
				at += l.GetValue()
			}
			out[f.GetName()][at] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// TestMeasures: attempts, and a look for room, under upstream's names.
func TestMeasures(t *testing.T) {
	var none *measures
	none.attempted("s", "scheduled", 0)
	none.runs(nil)()
	c := NewCounts()
	m := c.ofScheduling()
	m.attempted("s", "scheduled", time.Second)
	m.scheduled(17, time.Minute)
	m.preempted(nil)
	m.preempted(&Preemption{Victims: []*Pod{NewPod(pod("v"))}})
	got := samples(t, c)
	for name, at := range map[string]string{
		"scheduler_schedule_attempts_total": "s/scheduled", "scheduler_scheduling_attempt_duration_seconds": "s/scheduled",
		"scheduler_pod_scheduling_sli_duration_seconds": "16+", "scheduler_pod_scheduling_attempts": "", "scheduler_preemption_victims": "",
	} {
		if got[name][at] != 1 {
			t.Errorf("%s: %v", name, got[name])
		}
	}
	if n := got["scheduler_preemption_attempts_total"][""]; n != 2 {
		t.Errorf("%v attempts to preempt", n)
	}
	if got["scheduler_pending_pods"] != nil {
		t.Error("nobody schedules, and yet pods wait")
	}
}
