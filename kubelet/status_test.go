package kubelet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/kubelet/probes"
)

// summary renders what of a status the tests hold.
func summary(st *corev1.PodStatus) string {
	out := []string{string(st.Phase)}
	if st.Reason != "" {
		out[0] += "(" + st.Reason + ")"
	}
	for _, l := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for _, c := range l {
			w := c.Name + "="
			switch {
			case c.State.Running != nil:
				w += "running"
			case c.State.Terminated != nil:
				w += fmt.Sprintf("%s:%d", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
			default:
				w += c.State.Waiting.Reason
			}
			if c.Ready {
				w += "+ready"
			}
			if c.Started != nil && *c.Started {
				w += "+started"
			}
			if c.RestartCount > 0 {
				w += fmt.Sprintf(" x%d", c.RestartCount)
			}
			if t := c.LastTerminationState.Terminated; t != nil {
				w += fmt.Sprintf(" last %s:%d", t.Reason, t.ExitCode)
			}
			out = append(out, w)
		}
	}
	for _, c := range st.Conditions {
		w := fmt.Sprintf("%s=%s", c.Type, c.Status)
		if c.Reason != "" {
			w += " " + c.Reason
		}
		if c.Message != "" {
			w += ": " + c.Message
		}
		if c.Type != corev1.PodScheduled {
			out = append(out, w)
		}
	}
	return strings.Join(out, "\n")
}

func TestStatus(t *testing.T) {
	const always, never = corev1.RestartPolicyAlways, corev1.RestartPolicyNever
	for _, c := range []struct {
		name string
		s    *scene
		want string
	}{
		{"just bound", newScene(always, app("a")), `Pending
a=ContainerCreating
PodReadyToStartContainers=False
Initialized=True
Ready=False ContainersNotReady: containers with unready status: [a]
ContainersReady=False ContainersNotReady: containers with unready status: [a]`},
		{"running", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0)), `Running
a=running+ready+started
PodReadyToStartContainers=True
Initialized=True
Ready=True
ContainersReady=True`},
		{"not ready", newScene(always, app("a", "b"), box("s", 0, true), has("s", "a", 0, -1, 0), has("s", "b", 0, -1, 0), with(func(s *scene) {
			s.Pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{}
			s.Pod.Spec.Containers[1].StartupProbe = &corev1.Probe{}
		})), `Running
a=running+started
b=running
PodReadyToStartContainers=True
Initialized=True
Ready=False ContainersNotReady: containers with unready status: [a b]
ContainersReady=False ContainersNotReady: containers with unready status: [a b]`},
		{"by name", newScene(always, app("b", "a"), box("s", 0, true), has("s", "a", 0, -1, 0)), `Pending
a=running+ready+started
b=ContainerCreating
PodReadyToStartContainers=True
Initialized=True
Ready=False ContainersNotReady: containers with unready status: [b]
ContainersReady=False ContainersNotReady: containers with unready status: [b]`},
		{"probed", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) {
			s.Pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{}
			s.Probes["a.0"] = probes.Result{Ready: probes.Success}
		})), `Running
a=running+ready+started
PodReadyToStartContainers=True
Initialized=True
Ready=True
ContainersReady=True`},
		{"readiness gates", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) {
			s.Pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "x/y"}, {ConditionType: "x/z"}}
			s.Pod.Status.Conditions = []corev1.PodCondition{{Type: "x/z", Status: "False"}}
		})), `Running
a=running+ready+started
PodReadyToStartContainers=True
Initialized=True
Ready=False ReadinessGatesNotReady: corresponding condition of pod readiness gate "x/y" does not exist., the status of pod readiness gate "x/z" is not "True", but False
ContainersReady=True
x/z=False`},
		{"initializing", newScene(always, inits("i", "side"), app("a"), box("s", 0, true), has("s", "i", 0, -1, 0)), `Pending
i=running+started
side=PodInitializing
a=PodInitializing
PodReadyToStartContainers=True
Initialized=False ContainersNotInitialized: containers with incomplete status: [i side]
Ready=False ContainersNotReady: containers with unready status: [side a]
ContainersReady=False ContainersNotReady: containers with unready status: [side a]`},
		{"crash loop", newScene(always, app("a"), box("s", 0, true), has("s", "a", 2, 1, time.Second), with(func(s *scene) {
			s.Memory["a"] = &memory{CrashDelay: 10 * time.Second, CrashedAt: noon.Add(-5 * time.Second)}
		})), `Running
a=CrashLoopBackOff x2 last Error:1
PodReadyToStartContainers=True
Initialized=True
Ready=False ContainersNotReady: containers with unready status: [a]
ContainersReady=False ContainersNotReady: containers with unready status: [a]`},
		{"succeeded", newScene(never, inits("i"), app("a"), box("s", 0, false), has("s", "i", 0, 0, 0), has("s", "a", 0, 0, 0)), `Succeeded
i=Completed:0+ready
a=Completed:0
PodReadyToStartContainers=False
Initialized=True PodCompleted
Ready=False PodCompleted
ContainersReady=False PodCompleted`},
		{"failed", newScene(never, app("a", "b"), box("s", 0, false), has("s", "a", 0, 0, 0), has("s", "b", 0, 2, 0)), `Failed
a=Completed:0
b=Error:2
PodReadyToStartContainers=False
Initialized=True
Ready=False PodFailed
ContainersReady=False PodFailed`},
		{"a sidecar still stopping", newScene(never, inits("side"), app("a"), box("s", 0, true), has("s", "side", 0, -1, 0), has("s", "a", 0, 0, 0)), `Running
side=running+ready+started
a=Completed:0
PodReadyToStartContainers=True
Initialized=True
Ready=False ContainersNotReady: containers with unready status: [a]
ContainersReady=False ContainersNotReady: containers with unready status: [a]`},
		{"failed init", newScene(never, inits("i"), app("a"), box("s", 0, false), has("s", "i", 0, 1, 0)), `Failed
i=Error:1
a=PodInitializing
PodReadyToStartContainers=False
Initialized=False ContainersNotInitialized: containers with incomplete status: [i]
Ready=False PodFailed
ContainersReady=False PodFailed`},
		{"terminating", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), deleted(10)), `Running
a=running+ready+started
PodReadyToStartContainers=True
Initialized=True
Ready=True
ContainersReady=True`},
		{"deleted before it began", newScene(always, app("a"), deleted(10)), `Failed
a=ContainerStatusUnknown:137
PodReadyToStartContainers=False
Initialized=True
Ready=False PodFailed
ContainersReady=False PodFailed`},
		{"evicted before it began", newScene(always, app("a"), with(func(s *scene) { s.Ended = &reason{evicted, "m"} })), `Failed(Evicted)
a=ContainerStatusUnknown:137
PodReadyToStartContainers=False
Initialized=True
Ready=False PodFailed
ContainersReady=False PodFailed
DisruptionTarget=True TerminationByKubelet: m`},
		{"evicted with one begun, for what it did itself", newScene(always, app("a", "b"), box("s", 0, false), has("s", "a", 0, 137, 0), with(func(s *scene) {
			s.Ended, s.Overran = &reason{evicted, "m"}, true
		})), `Failed(Evicted)
a=Error:137
b=ContainerStatusUnknown:137
PodReadyToStartContainers=False
Initialized=True
Ready=False PodFailed
ContainersReady=False PodFailed`},
		{"its deadline came while it initialized", newScene(always, inits("i", "j", "k"), app("a"), box("s", 0, false), has("s", "i", 0, 0, 0), has("s", "j", 0, 137, 0), with(func(s *scene) {
			s.Ended = &reason{"DeadlineExceeded", "m"}
		})), `Failed(DeadlineExceeded)
i=Completed:0+ready
j=Error:137
k=PodInitializing
a=PodInitializing
PodReadyToStartContainers=False
Initialized=False ContainersNotInitialized: containers with incomplete status: [j k]
Ready=False PodFailed
ContainersReady=False PodFailed`},
		{"its deadline came before its first init container", newScene(always, inits("i", "j"), app("a"), with(func(s *scene) {
			s.Ended = &reason{"DeadlineExceeded", "m"}
		})), `Failed(DeadlineExceeded)
i=ContainerStatusUnknown:137
j=PodInitializing
a=PodInitializing
PodReadyToStartContainers=False
Initialized=False ContainersNotInitialized: containers with incomplete status: [i j]
Ready=False PodFailed
ContainersReady=False PodFailed`},
		{"its deadline came between init and app containers", newScene(always, inits("i"), app("a"), box("s", 0, false), has("s", "i", 0, 0, 0), with(func(s *scene) {
			s.Ended = &reason{"DeadlineExceeded", "m"}
		})), `Failed(DeadlineExceeded)
i=Completed:0+ready
a=ContainerStatusUnknown:137
PodReadyToStartContainers=False
Initialized=True
Ready=False PodFailed
ContainersReady=False PodFailed`},
		{"terminated", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, 137, 0), deleted(10)), `Failed
a=Error:137
PodReadyToStartContainers=True
Initialized=True
Ready=False PodFailed
ContainersReady=False PodFailed`},
		{"records lost", newScene(always, app("a"), with(func(s *scene) {
			s.Pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", RestartCount: 2, ContainerID: "r://x", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		})), `Running
a=ContainerCreating x2 last ContainerStatusUnknown:137
PodReadyToStartContainers=False
Initialized=True
Ready=False ContainersNotReady: containers with unready status: [a]
ContainersReady=False ContainersNotReady: containers with unready status: [a]`},
		{"rejected", newScene(always, app("a"), with(func(s *scene) { s.Rejected = &reason{"OutOfcpu", "no"} })), "Failed(OutOfcpu)"},
	} {
		p := makePlan(&c.s.podState)
		st := makeStatus(&c.s.podState, &p, nodeFacts{IPs: []string{"192.0.2.1"}, Runtime: "r"})
		if got := summary(st); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// Every condition tells which generation of the pod it is about, that of being
// scheduled too, which did not begin with the kubelet (KEP-5067).
func TestConditionsFollowGenerations(t *testing.T) {
	old := metav1.NewTime(noon.Add(-time.Hour))
	s := newScene(corev1.RestartPolicyAlways, app("a"), with(func(s *scene) {
		s.Pod.Generation = 3
		s.Pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: old, ObservedGeneration: 1}}
	}))
	p := makePlan(&s.podState)
	st := makeStatus(&s.podState, &p, nodeFacts{IPs: []string{"192.0.2.1"}, Runtime: "r"})
	for _, c := range st.Conditions {
		if c.ObservedGeneration != 3 {
			t.Errorf("%s is about generation %d", c.Type, c.ObservedGeneration)
		}
	}
	if c := findCondition(st.Conditions, corev1.PodScheduled); c == nil || !c.LastTransitionTime.Equal(&old) {
		t.Errorf("scheduled: %+v", c)
	}
}

// A status that does not change must not move its times, and what others put
// there stays.
func TestMergeStatus(t *testing.T) {
	old := metav1.NewTime(noon.Add(-time.Hour))
	have := &corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &old, QOSClass: corev1.PodQOSBurstable, NominatedNodeName: "x",
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: old},
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: old},
		},
	}
	now := metav1.NewTime(noon)
	st := &corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &now, QOSClass: corev1.PodQOSBestEffort, Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now},
	}}
	got := mergeStatus(have, st)
	if got.StartTime != have.StartTime || got.QOSClass != have.QOSClass || got.NominatedNodeName != "x" || len(got.Conditions) != 3 {
		t.Errorf("merged %+v", got)
	}
	for _, c := range got.Conditions {
		if c.Type != corev1.DisruptionTarget && !c.LastTransitionTime.Equal(&old) {
			t.Errorf("%s moved to %v", c.Type, c.LastTransitionTime)
		}
	}
	have.Phase = corev1.PodFailed
	if got := mergeStatus(have, st); got.Phase != corev1.PodFailed {
		t.Errorf("an ended pod became %s", got.Phase)
	}
}

// TestClaimants has a new pod fit beside those that end by request, and not
// beside those that were deleted by force, which the scheduler no longer sees.
func TestClaimants(t *testing.T) {
	node := &corev1.Node{}
	node.Status.Allocatable = corev1.ResourceList{"cpu": *q("2"), "pods": *q("10")}
	pod := func() *corev1.Pod {
		p := &corev1.Pod{}
		p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": *q("2")}}}}
		return p
	}
	old := &worker{uid: "old", state: podState{Pod: pod(), EndingSince: noon}}
	k := &Kubelet{workers: map[types.UID]*worker{"old": old}}
	if r := admit(pod(), node, k.claimants(), false); r == nil || r.Reason != "OutOfcpu" {
		t.Errorf("beside a pod that ends: %v", r)
	}
	old.state.Gone = true
	if r := admit(pod(), node, k.claimants(), false); r != nil {
		t.Errorf("beside a pod that was deleted by force: %v", r)
	}
	if len(k.activePods()) != 1 {
		t.Error("a pod that was deleted by force uses nothing before its end")
	}
}

func TestAdmit(t *testing.T) {
	node := &corev1.Node{}
	node.Status.Allocatable = corev1.ResourceList{"cpu": *q("2"), "memory": *q("1Gi"), "pods": *q("2"), "example.com/d": *q("0"), "example.com/e": *q("1")}
	node.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}, {Key: "other", Effect: corev1.TaintEffectNoSchedule}}
	tolerating := []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	pod := func(cpu string, port int32, tol []corev1.Toleration) *corev1.Pod {
		p := &corev1.Pod{}
		c := corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: port}}}
		c.Resources.Requests = corev1.ResourceList{"cpu": *q(cpu)}
		p.Spec.Containers, p.Spec.Tolerations = []corev1.Container{c}, tol
		return p
	}
	with := func(name corev1.ResourceName, p *corev1.Pod) *corev1.Pod {
		p.Spec.Containers[0].Resources.Requests[name] = *q("1")
		return p
	}
	served := func(p *corev1.Pod) *corev1.Pod {
		p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "made"}
		for name := range p.Spec.Containers[0].Resources.Requests {
			if name != corev1.ResourceCPU {
				p.Status.ExtendedResourceClaimStatus.RequestMappings = append(p.Status.ExtendedResourceClaimStatus.RequestMappings,
					corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: string(name), RequestName: "r"})
			}
		}
		return p
	}
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		others []*corev1.Pod
		static bool
		want   string
	}{
		{"fits", pod("1", 0, tolerating), nil, false, ""},
		{"no cpu", pod("1500m", 0, tolerating), []*corev1.Pod{pod("1", 0, nil)}, false, "OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"},
		{"too many", pod("1m", 0, tolerating), []*corev1.Pod{pod("1m", 0, nil), pod("1m", 0, nil)}, false, "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"},
		{"taint", pod("1", 0, nil), nil, false, "TaintToleration: Predicate TaintToleration failed: node(s) had untolerated taint {k: v}"},
		{"static", pod("1", 0, nil), nil, true, ""},
		{"devices of a plugin that is gone", with("example.com/d", pod("1", 0, tolerating)), nil, false, "OutOfexample.com/d: Node didn't have enough resource: example.com/d, requested: 1, used: 0, capacity: 0"},
		{"devices of a claim", served(with("example.com/d", pod("1", 0, tolerating))), nil, false, ""},
		{"beside devices of a claim", with("example.com/e", pod("1", 0, tolerating)), []*corev1.Pod{served(with("example.com/e", pod("1m", 0, nil)))}, false, ""},
		{"port", pod("1", 80, tolerating), []*corev1.Pod{pod("1m", 80, nil)}, false, "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		{"affinity", func() *corev1.Pod {
			p := pod("1", 0, tolerating)
			p.Spec.NodeSelector = map[string]string{"a": "b"}
			return p
		}(), nil, false, "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"windows", func() *corev1.Pod {
			p := pod("1", 0, tolerating)
			p.Spec.OS = &corev1.PodOS{Name: corev1.Windows}
			return p
		}(), nil, false, "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS"},
	} {
		got := ""
		if r := admit(c.pod, node, c.others, c.static); r != nil {
			got = r.Reason + ": " + r.Message
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestQOS(t *testing.T) {
	res := func(req, lim corev1.ResourceList) *corev1.Pod {
		p := &corev1.Pod{}
		p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: req, Limits: lim}}}
		return p
	}
	both := corev1.ResourceList{"cpu": *q("1"), "memory": *q("1Gi")}
	for _, c := range []struct {
		pod  *corev1.Pod
		want corev1.PodQOSClass
		oom  int64
	}{
		{res(nil, nil), corev1.PodQOSBestEffort, 1000},
		{res(both, both), corev1.PodQOSGuaranteed, -997},
		{res(both, nil), corev1.PodQOSBurstable, 750},
		{res(corev1.ResourceList{"memory": *q("4Gi")}, nil), corev1.PodQOSBurstable, 3},
		{func() *corev1.Pod { p := res(nil, nil); p.Spec.Priority = ptr.To(int32(2_000_001_000)); return p }(), corev1.PodQOSBestEffort, -997},
	} {
		if got := qosClass(c.pod); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
		if got := oomScoreAdj(c.pod, &c.pod.Spec.Containers[0], 4<<30); got != c.oom {
			t.Errorf("%s: oom score %d, want %d", c.want, got, c.oom)
		}
	}
	if got := (oomLimits{0}).clamp(-997); got != 0 {
		t.Errorf("without the capability: %d", got)
	}
}
