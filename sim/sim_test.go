package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

var now = time.Unix(1e9, 0).UTC()

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: "i"}},
	}, Status: corev1.PodStatus{Phase: corev1.PodPending}}
	if change != nil {
		change(p)
	}
	return p
}

// brief is a step in one line.
func brief(s Step) string {
	switch {
	case s.Gone:
		return "gone"
	case s.After > 0:
		return "later"
	case s.Status == nil:
		return "nothing"
	}
	var ready []string
	for _, c := range s.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			ready = append(ready, string(c.Type))
		}
	}
	return fmt.Sprint(s.Status.Phase, " ", s.Status.PodIP, " ", strings.Join(ready, ","))
}

func TestNext(t *testing.T) {
	ago := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(-d)} }
	pace := Pace{Start: 2 * time.Second, Stop: time.Second, Run: 10 * time.Second}
	job := func(began time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Status = corev1.PodStatus{Phase: corev1.PodRunning, StartTime: ago(time.Hour), ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: *ago(began)}}}}}
		}
	}
	deleted := func(d time.Duration, grace int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.DeletionGracePeriodSeconds = ptr.To(grace)
			p.DeletionTimestamp = &metav1.Time{Time: now.Add(time.Duration(grace)*time.Second - d)}
		}
	}
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		pace Pace
		want string
	}{
		{"seen", pod(nil), pace, "Pending  Initialized,PodScheduled"},
		{"seen, to be initialized", pod(func(p *corev1.Pod) { p.Spec.InitContainers = p.Spec.Containers }), pace, "Pending  PodScheduled"},
		{"starting", pod(func(p *corev1.Pod) { p.Status.StartTime = ago(time.Second / 2) }), pace, "later"},
		{"started", pod(func(p *corev1.Pod) { p.Status.StartTime = ago(3 * time.Second) }), pace, "Running 10.0.0.1 PodReadyToStartContainers,Initialized,Ready,ContainersReady,PodScheduled"},
		{"runs", pod(func(p *corev1.Pod) { job(time.Hour)(p); p.Spec.RestartPolicy = corev1.RestartPolicyAlways }), pace, "nothing"},
		{"runs to its end", pod(job(4 * time.Second)), pace, "later"},
		{"has ended", pod(job(15 * time.Second)), pace, "Succeeded  Initialized,PodScheduled"},
		{"has failed", pod(job(15 * time.Second)), Pace{Fail: 1}, "Failed  Initialized,PodScheduled"},
		{"ended before", pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed; p.Status.StartTime = ago(time.Hour) }), pace, "nothing"},
		{"stopping", pod(deleted(time.Second/4, 30)), pace, "later"},
		{"stopped", pod(deleted(2*time.Second, 30)), pace, "gone"},
		{"no grace", pod(deleted(0, 0)), pace, "gone"},
	} {
		if got := brief(Next(tc.pod, tc.pace, "10.0.0.1", now)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestDrawsAreSpreadAndLasting(t *testing.T) {
	var sum time.Duration
	for i := range 1000 {
		p := pod(func(p *corev1.Pod) { p.UID = types.UID(fmt.Sprint("uid-", i)) })
		d := draw(p, "start", time.Second)
		if d < time.Second/2 || d > 3*time.Second/2 || d != draw(p, "start", time.Second) {
			t.Fatal(d)
		}
		sum += d
	}
	if mean := sum / 1000; mean < 950*time.Millisecond || mean > 1050*time.Millisecond {
		t.Errorf("mean %v", mean)
	}
}

// A pod on a node that plays it: what the node writes makes it run, and then
// go, in the time that the pace gives.
func TestPodsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := pod(nil)
		for range 10 {
			s := Next(p, Pace{Start: 2 * time.Second}, "10.0.0.1", time.Now())
			if s.After > 0 {
				time.Sleep(s.After)
				continue
			}
			if s.Status == nil {
				break
			}
			// As the API applies it.
			old, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			patch, err := change(p, s.Status)
			if err != nil {
				t.Fatal(err)
			}
			merged, err := strategicpatch.StrategicMergePatch(old, patch, corev1.Pod{})
			if err != nil {
				t.Fatal(err)
			}
			p = &corev1.Pod{}
			if err := json.Unmarshal(merged, p); err != nil {
				t.Fatal(err)
			}
		}
		c := p.Status.ContainerStatuses[0]
		if p.Status.Phase != corev1.PodRunning || !c.Ready || c.State.Running == nil || c.State.Waiting != nil || len(p.Status.Conditions) != 5 {
			t.Errorf("%+v", p.Status)
		}
		if d := time.Since(began); d < time.Second || d > 4*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestAddresses(t *testing.T) {
	n, err := New(Config{Name: "n", Index: 300, Door: nil, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if a := n.address("1"); a != "100.65.44.1" || n.address("1") != a {
		t.Errorf("without a range: %s", a)
	}
	n.adopt(&corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.9.8.0/30"}})
	var got []string
	for _, uid := range []string{"2", "3", "4"} {
		got = append(got, n.address(uid))
	}
	n.release("3")
	got = append(got, n.address("5"))
	if s := strings.Join(got, " "); s != "10.9.8.1 10.9.8.2 10.9.8.3 10.9.8.2" {
		t.Error(s)
	}
}

// nodeDoor answers with one node.
type nodeDoor struct {
	client.Interface
	node  *corev1.Node
	asked int
}

func (d *nodeDoor) Do(context.Context, *client.Request) (*client.Result, error) {
	d.asked++
	return &client.Result{Object: d.node}, nil
}

// A node's range comes a moment after the node; pods that come first get
// addresses of it all the same, and a cluster without ranges is not asked for
// each pod.
func TestTheRangeIsLearnt(t *testing.T) {
	door, at := &nodeDoor{node: &corev1.Node{}}, testingclock.NewFakeClock(now)
	n, err := New(Config{Name: "n", Index: 300, Door: door, Clock: at, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	learn := func() {
		t.Helper()
		if err := n.learn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	learn()
	learn()
	if a := n.address("none"); door.asked != 1 || !strings.HasPrefix(a, "100.") {
		t.Errorf("asked %d times, address %s", door.asked, a)
	}
	door.node = &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.1.2.0/24"}}
	at.Step(renewEvery)
	learn()
	at.Step(time.Hour)
	learn()
	if a := n.address("some"); door.asked != 2 || !strings.HasPrefix(a, "10.1.2.") {
		t.Errorf("asked %d times, address %s", door.asked, a)
	}
}
