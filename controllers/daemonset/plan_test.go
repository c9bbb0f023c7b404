package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/controllers/pods"
)

var now = time.Unix(1e9, 0)

func set(change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "d", UID: "d", Generation: 2}}
	ds.Spec.Template.Labels = map[string]string{"app": "d"}
	ds.Spec.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	for _, f := range change {
		f(ds)
	}
	return ds
}

func rolling(surge, unavailable string) func(*appsv1.DaemonSet) {
	return func(ds *appsv1.DaemonSet) {
		ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{
			MaxSurge: ptr.To(intstr.Parse(surge)), MaxUnavailable: ptr.To(intstr.Parse(unavailable)),
		}
	}
}

func onDelete(ds *appsv1.DaemonSet) {
	ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
}

// pod reads "node:flags": o old template, u not ready, d being deleted, f
// failed, s succeeded, p not bound yet, y ready for a second only.
func pod(spec string, n int) *corev1.Pod {
	node, flags, _ := strings.Cut(spec, ":")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", node, n), UID: types.UID(fmt.Sprint(n))}}
	p.CreationTimestamp = metav1.NewTime(now.Add(time.Duration(n) * time.Second))
	p.Labels = map[string]string{appsv1.ControllerRevisionHashLabelKey: "new"}
	p.Spec.NodeName, p.Status.Phase = node, corev1.PodRunning
	ready, since := true, now.Add(-time.Hour)
	for _, f := range flags {
		switch f {
		case 'o':
			p.Labels[appsv1.ControllerRevisionHashLabelKey] = "old"
		case 'u':
			ready = false
		case 'd':
			p.DeletionTimestamp = &metav1.Time{Time: now}
		case 'f':
			p.Status.Phase, ready = corev1.PodFailed, false
		case 's':
			p.Status.Phase, ready = corev1.PodSucceeded, false
		case 'p':
			p.Spec = newPod(set(), nil, "new", node).Spec
			p.Status.Phase, ready = corev1.PodPending, false
		case 'y':
			since = now.Add(-time.Second)
		}
	}
	if ready {
		pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)})
	}
	return p
}

func node(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Spec: corev1.NodeSpec{Taints: taints}}
}

func nodes(names string) (out []*corev1.Node) {
	for _, n := range strings.Fields(names) {
		switch n[0] {
		case '-': // no new pod
			out = append(out, node(n[1:], corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoSchedule}))
		case '!': // no pod at all
			out = append(out, node(n[1:], corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute}))
		default:
			out = append(out, node(n))
		}
	}
	return out
}

func TestMake(t *testing.T) {
	slow := func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 10 }
	for _, tc := range []struct {
		name        string
		set         *appsv1.DaemonSet
		nodes, pods string
		create      string
		delete      string
		status      string // desired current ready available updated misscheduled
	}{
		{"none yet", set(), "a b -c !d", "", "a b", "", "2 0 0 0 0 0"},
		{"whole", set(), "a b", "a b", "", "", "2 2 2 2 2 0"},
		{"waits for the end of the one before", set(), "a", "a:d", "", "", "1 1 1 1 1 0"},
		{"a finished one that is being deleted is no one", set(), "a", "a:fd", "a", "", "1 0 0 0 0 0"},
		{"a taint against scheduling lets it stay", set(), "-a", "a", "", "", "0 0 0 0 0 1"},
		{"a taint against execution does not", set(), "!a", "a", "", "a-0", "0 0 0 0 0 1"},
		{"node gone before the pod was bound", set(), "a", "a z:p", "", "z-1", "1 1 1 1 1 0"},
		{"node gone with its pod", set(), "a", "a z", "", "", "1 1 1 1 1 0"},
		{"unbound counts at its node", set(), "a", "a:p", "", "", "1 1 0 0 1 0"},
		{"two on one node", set(), "a", "a a", "", "a-1", "1 1 1 1 1 0"},
		{"failed and succeeded go", set(), "a b", "a:f b:s", "", "a-0 b-1", "2 2 0 0 2 0"},
		{"backoff", set(), "slow", "slow:f", "", "", "1 1 0 0 1 0"},
		{"one by one", set(), "a b c", "a:o b:o c:o", "", "a-0", "3 3 3 3 0 0"},
		{"next only after the last is available", set(), "a b c", "a:u b:o c:o", "", "", "3 3 2 2 1 0"},
		{"ready is not available", set(slow), "a b", "a:y b:o", "", "", "2 2 2 1 1 0"},
		{"half at once", set(rolling("0", "50%")), "a b c", "a:o b:o c:o", "", "a-0 b-1", "3 3 3 3 0 0"},
		{"broken old ones at once", set(), "a b c", "a:o b:ou c:ou", "", "b-1 c-2", "3 3 1 1 0 0"},
		{"a terminating one is missing", set(), "a b", "a:od b:o", "", "", "2 2 2 2 0 0"},
		{"no update before the set is whole", set(), "a b", "b:o", "a", "", "2 1 1 1 0 0"},
		{"on delete", set(onDelete), "a b", "a:o b:o", "", "", "2 2 2 2 0 0"},
		{"surge makes another first", set(rolling("1", "0")), "a b", "a:o b:o", "a", "", "2 2 2 2 0 0"},
		{"surge waits", set(rolling("1", "0")), "a b", "a:o a:u b:o", "", "", "2 2 2 2 0 0"},
		{"surge ends the old one", set(rolling("1", "0")), "a b", "a:o a b:o", "", "a-0", "2 2 2 2 0 0"},
		{"surge goes on while the old one ends", set(rolling("1", "0")), "a b", "a:od a b:o", "b", "", "2 2 2 2 0 0"},
		{"surge replaces what serves no one at once", set(rolling("1", "0")), "a b c", "a:o b:ou c:ou", "a b c", "", "3 3 1 1 0 0"},
		{"surge on a node that takes no more", set(rolling("1", "0")), "-a b", "a:o b:o", "b", "", "1 1 1 1 0 1"},
		{"being deleted", set(func(ds *appsv1.DaemonSet) { ds.DeletionTimestamp = &metav1.Time{Time: now} }), "a", "", "", "", "1 0 0 0 0 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := State{Set: tc.set, Nodes: nodes(tc.nodes), Hash: "new", Now: now, Backoff: func(node string) time.Duration {
				if node == "slow" {
					return 7 * time.Second
				}
				return 0
			}}
			for i, p := range strings.Fields(tc.pods) {
				s.Pods = append(s.Pods, pod(p, i))
			}
			plan := Make(s)
			var del []string
			for _, d := range plan.Delete {
				del = append(del, d.Pod.Name)
			}
			slices.Sort(del)
			slices.Sort(plan.Create)
			st := plan.Status
			status := fmt.Sprint(st.DesiredNumberScheduled, st.CurrentNumberScheduled, st.NumberReady, st.NumberAvailable, st.UpdatedNumberScheduled, st.NumberMisscheduled)
			if c, d := strings.Join(plan.Create, " "), strings.Join(del, " "); c != tc.create || d != tc.delete || status != tc.status {
				t.Errorf("create %q, delete %q, status %s; want %q, %q, %s", c, d, status, tc.create, tc.delete, tc.status)
			}
			if strings.Contains(tc.nodes, "slow") && plan.Again != 7*time.Second {
				t.Errorf("again %v", plan.Again)
			}
			if st.ObservedGeneration != 2 || st.NumberUnavailable != st.DesiredNumberScheduled-st.NumberAvailable {
				t.Errorf("status %+v", st)
			}
		})
	}
}

func TestPlacement(t *testing.T) {
	taint := func(key string, e corev1.TaintEffect) corev1.Taint { return corev1.Taint{Key: key, Effect: e} }
	in := func(v string) *corev1.Affinity {
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "name", Operator: corev1.NodeSelectorOpIn, Values: []string{v}}}}},
		}}}
	}
	for _, tc := range []struct {
		name string
		spec corev1.PodSpec
		node *corev1.Node
		want Fit
	}{
		{"any", corev1.PodSpec{}, node("a"), Fit{true, true}},
		{"cordoned and in trouble", corev1.PodSpec{}, node("a", taint(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule), taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute), taint(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)), Fit{true, true}},
		{"no network", corev1.PodSpec{}, node("a", taint(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)), Fit{false, true}},
		{"no network needed", corev1.PodSpec{HostNetwork: true}, node("a", taint(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)), Fit{true, true}},
		{"selector", corev1.PodSpec{NodeSelector: map[string]string{"name": "b"}}, node("a"), Fit{}},
		{"affinity", corev1.PodSpec{Affinity: in("b")}, node("a"), Fit{}},
		{"affinity fits", corev1.PodSpec{Affinity: in("a")}, node("a"), Fit{true, true}},
		{"named", corev1.PodSpec{NodeName: "b"}, node("a"), Fit{}},
		{"tolerated", corev1.PodSpec{Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}}, node("a", taint("k", corev1.TaintEffectNoExecute)), Fit{true, true}},
	} {
		ds := set()
		ds.Spec.Template.Spec = tc.spec
		p := newPlacer(ds)
		if got := p.on(tc.node); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
		made := newPod(ds, nil, "h", "target")
		if made.Spec.NodeName == "" && targetNode(made) != "target" || made.Labels[appsv1.ControllerRevisionHashLabelKey] != "h" {
			t.Errorf("%s: pod %+v", tc.name, made)
		}
		if tc.spec.Affinity != nil && len(ds.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields) > 0 {
			t.Errorf("%s: the template changed", tc.name)
		}
	}
}
