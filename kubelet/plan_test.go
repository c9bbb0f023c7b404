package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/kubelet/probes"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// scene builds the state of a pod in few words.
type scene struct{ podState }

func newScene(policy corev1.RestartPolicy, change ...func(*scene)) *scene {
	s := &scene{podState{
		Now: noon, VolumesMounted: true, Memory: map[string]*memory{}, Probes: map[string]probes.Result{},
		Starting: map[string]bool{}, Killing: map[string]time.Time{}, Dropping: map[string]bool{},
		Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u", Generation: 3},
			Spec:       corev1.PodSpec{RestartPolicy: policy, TerminationGracePeriodSeconds: ptr.To(int64(30))},
		},
	}}
	for _, f := range change {
		f(s)
	}
	sortNewestFirst(s.Sandboxes, s.Containers)
	return s
}

func app(names ...string) func(*scene) {
	return func(s *scene) {
		for _, n := range names {
			s.Pod.Spec.Containers = append(s.Pod.Spec.Containers, corev1.Container{Name: n, Image: "i"})
		}
	}
}

func inits(names ...string) func(*scene) {
	return func(s *scene) {
		for _, n := range names {
			c := corev1.Container{Name: n, Image: "i"}
			if strings.HasPrefix(n, "side") {
				c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
			}
			s.Pod.Spec.InitContainers = append(s.Pod.Spec.InitContainers, c)
		}
	}
}

func box(id string, attempt uint32, ready bool) func(*scene) {
	return func(s *scene) {
		st := runtimeapi.PodSandboxState_SANDBOX_READY
		if !ready {
			st = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		}
		s.Sandboxes = append(s.Sandboxes, &runtimeapi.PodSandboxStatus{
			Id: id, State: st, CreatedAt: int64(attempt), Metadata: &runtimeapi.PodSandboxMetadata{Attempt: attempt},
			Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1"},
		})
	}
}

// has adds an instance: code -1 is running, -2 created. It ended at the given
// time before noon.
func has(sandbox, name string, attempt int, code int32, ago time.Duration) func(*scene) {
	return func(s *scene) {
		st := &runtimeapi.ContainerStatus{
			Id: fmt.Sprintf("%s.%d", name, attempt), CreatedAt: int64(1000 + attempt), StartedAt: noon.Add(-ago - time.Minute).UnixNano(),
			Labels:      map[string]string{labelContainer: name},
			Annotations: map[string]string{annotationRestarts: fmt.Sprint(attempt), annotationSpecHash: specHash(&corev1.Container{Name: name, Image: "i"})},
		}
		switch code {
		case -1:
			st.State = runtimeapi.ContainerState_CONTAINER_RUNNING
		case -2:
			st.State = runtimeapi.ContainerState_CONTAINER_CREATED
		default:
			st.State, st.ExitCode, st.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, noon.Add(-ago).UnixNano()
		}
		s.Containers = append(s.Containers, &instance{ContainerStatus: st, SandboxID: sandbox})
	}
}

// allRestart has exit code 88 of a container restart all.
func allRestart(name string) func(*scene) {
	return func(s *scene) {
		c, _ := findContainer(&s.Pod.Spec, name)
		c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyNever)
		c.RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action: corev1.ContainerRestartRuleActionRestartAllContainers, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}},
		}}
	}
}

func with(f func(s *scene)) func(*scene) { return f }

func deleted(grace int64) func(*scene) {
	return func(s *scene) {
		t := metav1.NewTime(noon)
		s.Pod.DeletionTimestamp, s.Pod.DeletionGracePeriodSeconds = &t, &grace
		s.EndingSince = noon
	}
}

// words renders a plan for comparison.
func words(p *plan) string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if p.Mount {
		add("mount")
	}
	if p.CreateSandbox {
		add("sandbox#%d", p.Attempt)
	}
	for _, a := range p.Start {
		w := "start"
		if a.Restart {
			w = "restart"
		}
		add("%s %s#%d", w, a.Container.Name, a.Attempt)
	}
	for _, a := range p.Kill {
		w := fmt.Sprintf("kill %s %v", a.ID, a.Grace)
		if a.Why.Reason != "" {
			w += " for " + a.Why.Reason
		}
		add("%s", w)
	}
	for _, l := range []struct {
		word string
		ids  []string
	}{{"stop", p.StopSandboxes}, {"drop", p.DropContainers}, {"drop", p.DropSandboxes}} {
		for _, id := range l.ids {
			add("%s %s", l.word, id)
		}
	}
	if p.Restarted {
		add("restarted")
	}
	if p.Release {
		add("release")
	}
	if p.Remove {
		add("remove")
	}
	if p.End != nil {
		add("end %s", p.End.Reason)
	}
	var waits []string
	for name, r := range p.Waiting {
		waits = append(waits, fmt.Sprintf("%s waits: %s", name, r.Reason))
	}
	slices.Sort(waits)
	out = append(out, waits...)
	if !p.Wake.IsZero() {
		add("wake %v", p.Wake.Sub(noon))
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, c := range []struct {
		name string
		s    *scene
		want string
	}{
		{"volumes come first", newScene(always, app("a"), with(func(s *scene) { s.VolumesMounted = false })), "mount"},
		{"failed volumes wait", newScene(always, app("a"), with(func(s *scene) { s.VolumesMounted, s.VolumesRetry = false, noon.Add(time.Second) })), "wake 1s"},
		{"then the sandbox", newScene(always, app("a")), "sandbox#0"},
		{"a failed sandbox waits", newScene(always, app("a"), with(func(s *scene) { s.SandboxRetry = noon.Add(time.Second) })), "wake 1s"},
		{"one sandbox at a time", newScene(always, app("a"), with(func(s *scene) { s.Sandboxing = true })), ""},
		{"all apps start at once", newScene(always, app("a", "b"), box("s", 0, true)), "start a#0, start b#0"},
		{"not twice", newScene(always, app("a", "b"), box("s", 0, true), with(func(s *scene) { s.Starting["a"] = true })), "start b#0"},
		{"all is well", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0)), ""},
		{"fresh content", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) { s.VolumesStale = true })), "mount"},
		{"a token's time", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) { s.VolumesRefresh = noon.Add(time.Hour) })), "wake 1h0m0s"},

		{"the first restart is at once", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, 1, 0)), "restart a#1"},
		{"success restarts too", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, 0, 0)), "restart a#1"},
		{"the second waits", newScene(always, app("a"), box("s", 0, true), has("s", "a", 1, 1, 3*time.Second), with(func(s *scene) {
			s.Memory["a"] = &memory{CrashDelay: 10 * time.Second, CrashedAt: noon.Add(-5 * time.Second)}
		})), "a waits: CrashLoopBackOff, wake 7s"},
		{"and then goes", newScene(always, app("a"), box("s", 0, true), has("s", "a", 1, 1, 10*time.Second), with(func(s *scene) {
			s.Memory["a"] = &memory{CrashDelay: 10 * time.Second, CrashedAt: noon.Add(-15 * time.Second)}
		})), "restart a#2"},
		{"a new image starts afresh", newScene(always, app("a"), box("s", 0, true), has("s", "a", 5, 1, 3*time.Second), with(func(s *scene) {
			s.Memory["a"] = &memory{CrashDelay: 300 * time.Second, CrashedAt: noon.Add(-5 * time.Second)}
			s.Pod.Spec.Containers[0].Image = "mended"
		})), "restart a#6"},
		{"a long run forgives", newScene(always, app("a"), box("s", 0, true), has("s", "a", 5, 1, 0), with(func(s *scene) {
			s.Memory["a"] = &memory{CrashDelay: 300 * time.Second, CrashedAt: noon.Add(-11 * time.Minute)}
		})), "restart a#6"},
		{"old instances go", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, 1, 0), has("s", "a", 1, 1, 0), has("s", "a", 2, -1, 0)), "drop a.0"},
		{"on failure restarts failure", newScene(onFailure, app("a"), box("s", 0, true), has("s", "a", 0, 1, 0)), "restart a#1"},
		{"on failure leaves success", newScene(onFailure, app("a", "b"), box("s", 0, true), has("s", "a", 0, 0, 0), has("s", "b", 0, -1, 0)), ""},
		{"never", newScene(never, app("a", "b"), box("s", 0, true), has("s", "a", 0, 1, 0), has("s", "b", 0, -1, 0)), ""},
		{"the container's own policy", newScene(never, app("a"), box("s", 0, true), has("s", "a", 0, 42, 0), with(func(s *scene) {
			s.Pod.Spec.Containers[0].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyNever)
			s.Pod.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{
				Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
			}}
		})), "restart a#1"},
		{"all restart: end them", newScene(never, inits("i", "side"), app("a", "b"), box("s", 0, true), has("s", "i", 0, 0, 0), has("s", "side", 0, -1, 0), has("s", "a", 0, 88, 0), has("s", "b", 0, -1, 0), allRestart("a")),
			"kill side.0 0s for ContainerExited, kill b.0 0s for ContainerExited, drop i.0, drop a.0"},
		{"all restart: on its way", newScene(never, app("a", "b"), box("s", 0, true), has("s", "a", 0, 88, 0), has("s", "b", 0, -1, 0), allRestart("a"), with(func(s *scene) {
			s.Killing["b.0"], s.Dropping["a.0"] = noon, true
		})), ""},
		{"all restart: another code", newScene(never, app("a", "b"), box("s", 0, true), has("s", "a", 0, 1, 0), has("s", "b", 0, -1, 0), allRestart("a")), ""},
		{"all restart: a sidecar asks, the apps are ended already", newScene(never, inits("i", "side"), app("a"), box("s", 0, true), has("s", "i", 0, 0, 0), has("s", "side", 0, 88, 0), has("s", "a", 0, 137, 0), allRestart("side")), "drop i.0, drop side.0, drop a.0"},
		{"all restart: not by a sidecar that ends with the apps", newScene(never, inits("i", "side"), app("a"), box("s", 0, true), has("s", "i", 0, 0, 0), has("s", "side", 0, 88, 0), has("s", "a", 0, 0, 0), allRestart("side"), with(func(s *scene) { s.EndingSince = noon })), "release"},
		{"all restart: known from the status", newScene(never, app("a", "b"), box("s", 0, true), has("s", "b", 0, -1, 0), with(func(s *scene) { s.Restarting = &reason{"ContainerExited", ""} })), "kill b.0 0s for ContainerExited"},
		{"all restart: gone", newScene(never, inits("i"), app("a"), box("s", 0, true), with(func(s *scene) { s.Restarting = &reason{"ContainerExited", ""} })), "restarted"},
		{"all restart: from the beginning", newScene(never, inits("i"), app("a"), box("s", 0, true), allRestart("a"), with(func(s *scene) {
			s.Memory["i"] = &memory{Last: &instance{ContainerStatus: &runtimeapi.ContainerStatus{Annotations: map[string]string{annotationRestarts: "4"}}}}
		})), "start i#5"},
		{"all restart: less and less often", newScene(never, inits("i"), app("a"), box("s", 0, true), with(func(s *scene) { s.RestartAt = noon.Add(time.Second) })), "a waits: CrashLoopBackOff, i waits: CrashLoopBackOff, wake 1s"},
		{"all restart: not when deleted", newScene(never, app("a", "b"), box("s", 0, true), has("s", "a", 0, 88, 0), has("s", "b", 0, -1, 0), allRestart("a"), deleted(20)), "kill b.0 20s"},
		{"all done", newScene(never, app("a", "b"), box("s", 0, true), has("s", "a", 0, 1, 0), has("s", "b", 0, 0, 0)), "release"},
		{"done and released", newScene(never, app("a"), box("s", 0, false), has("s", "a", 0, 0, 0), with(func(s *scene) { s.Released = true })), ""},

		{"a failed pull waits", newScene(always, app("a"), box("s", 0, true), with(func(s *scene) {
			s.Memory["a"] = &memory{Waiting: reason{errImagePull, "no"}, FailedAt: noon.Add(-time.Second), RetryAt: noon.Add(9 * time.Second)}
		})), "a waits: ErrImagePull, wake 2s"},
		{"and then shows the back-off", newScene(always, app("a"), box("s", 0, true), with(func(s *scene) {
			s.Memory["a"] = &memory{Waiting: reason{errImagePull, "no"}, FailedAt: noon.Add(-4 * time.Second), RetryAt: noon.Add(6 * time.Second)}
		})), "a waits: ImagePullBackOff, wake 6s"},
		{"and tries again", newScene(always, app("a"), box("s", 0, true), with(func(s *scene) {
			s.Memory["a"] = &memory{Waiting: reason{errImagePull, "no"}, FailedAt: noon.Add(-10 * time.Second), RetryAt: noon}
		})), "start a#0, a waits: ErrImagePull"},
		{"what was made and not started goes", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -2, 0)), "drop a.0"},

		{"liveness", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) { s.Probes["a.0"] = probes.Result{Live: probes.Failure} })), "kill a.0 30s for LivenessProbe"},
		{"liveness with its own grace", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) {
			s.Probes["a.0"] = probes.Result{Live: probes.Failure}
			s.Pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{TerminationGracePeriodSeconds: ptr.To(int64(5))}
		})), "kill a.0 5s for LivenessProbe"},
		{"killed once", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) {
			s.Probes["a.0"] = probes.Result{Live: probes.Failure}
			s.Killing["a.0"] = noon.Add(20 * time.Second)
		})), ""},
		{"startup", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) { s.Probes["a.0"] = probes.Result{Startup: probes.Failure} })), "kill a.0 30s for StartupProbe"},
		{"another image", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) { s.Pod.Spec.Containers[0].Image = "j" })), "kill a.0 30s for Changed"},

		{"init containers one by one", newScene(always, inits("i", "j"), app("a"), box("s", 0, true)), "start i#0"},
		{"a running one blocks", newScene(always, inits("i", "j"), app("a"), box("s", 0, true), has("s", "i", 0, -1, 0)), ""},
		{"the next", newScene(always, inits("i", "j"), app("a"), box("s", 0, true), has("s", "i", 0, 0, 0)), "start j#0"},
		{"a failed one again", newScene(always, inits("i"), app("a"), box("s", 0, true), has("s", "i", 0, 1, 0)), "restart i#1"},
		{"a failed one ends the pod", newScene(never, inits("i"), app("a"), box("s", 0, true), has("s", "i", 0, 1, 0)), "release"},
		{"then the apps", newScene(always, inits("i"), app("a"), box("s", 0, true), has("s", "i", 0, 0, 0)), "start a#0"},
		{"not again once apps ran", newScene(always, inits("i"), app("a"), box("s", 0, true), has("s", "a", 0, 1, 0)), "restart a#1"},
		{"a sidecar must have started", newScene(always, inits("side", "i"), app("a"), box("s", 0, true), has("s", "side", 0, -1, 0), with(func(s *scene) {
			s.Pod.Spec.InitContainers[0].StartupProbe = &corev1.Probe{}
		})), ""},
		{"a started sidecar lets on", newScene(always, inits("side", "i"), app("a"), box("s", 0, true), has("s", "side", 0, -1, 0)), "start i#0"},
		{"a sidecar restarts under never", newScene(never, inits("side"), app("a"), box("s", 0, true), has("s", "side", 0, 1, 0), has("s", "a", 0, -1, 0)), "restart side#1"},
		{"sidecars end with the apps", newScene(never, inits("side"), app("a"), box("s", 0, true), has("s", "side", 0, -1, 0), has("s", "a", 0, 0, 0)), "kill side.0 30s"},

		{"a lost sandbox is replaced", newScene(always, app("a"), box("s", 0, false), has("s", "a", 0, 137, 0)), "sandbox#1"},
		{"after its containers", newScene(always, app("a"), box("s", 0, false), has("s", "a", 0, -1, 0)), "kill a.0 30s"},
		{"inits run anew in it", newScene(always, inits("i"), app("a"), box("s", 0, false), box("t", 1, true), has("s", "i", 0, 0, 0), has("s", "a", 0, 137, 0)), "start i#1"},
		{"the old one goes when empty", newScene(always, app("a"), box("s", 0, false), box("t", 1, true), has("t", "a", 1, -1, 0)), "drop s"},
		{"not for a finished pod", newScene(never, app("a"), box("s", 0, false), has("s", "a", 0, 0, 0)), "release"},

		{"deleted", newScene(always, app("a", "b"), box("s", 0, true), has("s", "a", 0, -1, 0), has("s", "b", 0, -1, 0), deleted(20)), "kill a.0 20s, kill b.0 20s"},
		{"time has passed", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), deleted(20), with(func(s *scene) { s.EndingSince = noon.Add(-19 * time.Second) })), "kill a.0 2s"},
		{"on its way", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), deleted(20), with(func(s *scene) { s.Killing["a.0"] = noon.Add(20 * time.Second) })), ""},
		{"hurried", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), deleted(1), with(func(s *scene) { s.Killing["a.0"] = noon.Add(20 * time.Second) })), "kill a.0 1s"},
		{"drained first", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), deleted(20), with(func(s *scene) { s.Draining = true })), ""},
		{"sidecars last", newScene(always, inits("side1", "side2"), app("a"), box("s", 0, true), has("s", "side1", 0, -1, 0), has("s", "side2", 0, -1, 0), has("s", "a", 0, -1, 0), deleted(20)), "kill a.0 20s"},
		{"in reverse", newScene(always, inits("side1", "side2"), app("a"), box("s", 0, true), has("s", "side1", 0, -1, 0), has("s", "side2", 0, -1, 0), has("s", "a", 0, 0, 0), deleted(20)), "kill side2.0 20s"},
		{"everything stopped", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, 0, 0), deleted(20)), "release"},
		{"not while something starts", newScene(always, app("a"), box("s", 0, true), deleted(20), with(func(s *scene) { s.Starting["a"] = true })), ""},
		{"released", newScene(always, app("a"), box("s", 0, false), has("s", "a", 0, 0, 0), deleted(20), with(func(s *scene) { s.Released = true })), "remove"},
		{"never begun", newScene(always, app("a"), deleted(20)), "release"},
		{"gone from its source", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) { s.Gone = true })), "kill a.0 30s"},
		{"rejected", newScene(always, app("a"), with(func(s *scene) { s.Rejected = &reason{"OutOfcpu", ""} })), "release, end OutOfcpu"},
		{"failed by another", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) { s.Pod.Status.Phase = corev1.PodFailed })), "kill a.0 30s"},
		{"a deadline ahead", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) {
			s.Pod.Spec.ActiveDeadlineSeconds, s.Pod.Status.StartTime = ptr.To(int64(60)), ptr.To(metav1.NewTime(noon.Add(-50*time.Second)))
		})), "wake 10s"},
		{"a deadline passed", newScene(always, app("a"), box("s", 0, true), has("s", "a", 0, -1, 0), with(func(s *scene) {
			s.Pod.Spec.ActiveDeadlineSeconds, s.Pod.Status.StartTime = ptr.To(int64(60)), ptr.To(metav1.NewTime(noon.Add(-60*time.Second)))
		})), "kill a.0 30s, end DeadlineExceeded"},
	} {
		p := makePlan(&c.s.podState)
		if got := words(&p); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestCrashBackOff(t *testing.T) {
	var m memory
	var got []time.Duration
	now := noon
	for range 8 {
		m.crashed(now, crashDelayMax)
		got = append(got, m.CrashDelay/time.Second)
		now = m.restartAt(now)
	}
	if want := []time.Duration{10, 20, 40, 80, 160, 300, 300, 300}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if m.crashed(now.Add(20*time.Minute), crashDelayMax); m.CrashDelay != 10*time.Second {
		t.Errorf("after a long run: %v", m.CrashDelay)
	}
}
