package histories_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/test/world"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

// daemons judges the pods of one DaemonSet.
type daemons struct {
	w                  *world.World
	surge, unavailable int
	mu                 sync.Mutex
	// excused are nodes on which others have disturbed something, until then.
	excused map[string]time.Time
	// serving are pods that are ready, since when; surged are those that were
	// made beside one of them. Both by name.
	serving map[string]time.Time
	surged  map[string]bool
}

// known is how long the controller may take to learn that a pod is ready.
const known = 20 * time.Second

// note follows which pods serve, and which are made beside one that served as
// far as anybody could know: only these count as surge, since a pod that
// serves nobody is replaced at once and may come to serve after that.
func (d *daemons) note(c world.Change) {
	now, _ := c.New.(*corev1.Pod)
	old, _ := c.Old.(*corev1.Pod)
	switch {
	case now == nil:
		delete(d.serving, old.Name)
		delete(d.surged, old.Name)
		return
	case !pods.Ready(now):
		delete(d.serving, now.Name)
	case d.serving[now.Name].IsZero():
		d.serving[now.Name] = time.Now()
	}
	if old != nil {
		return
	}
	for _, p := range world.InJudge[*corev1.Pod](d.w, "pods") {
		since := d.serving[p.Name]
		if p.Name != now.Name && target(p) == target(now) && p.DeletionTimestamp == nil && !since.IsZero() && time.Since(since) > known {
			d.surged[now.Name] = true
		}
	}
}

func (d *daemons) excuse(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.excused[node] = time.Now().Add(20 * time.Second)
}

// target is the node that a daemon's pod is for.
func target(p *corev1.Pod) string {
	return p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

func (d *daemons) judge(c world.Change) {
	if c.Resource != "pods" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note(c)
	there, active, ready, newest := map[string]int{}, map[string]int{}, map[string]int{}, map[string]*corev1.Pod{}
	for _, p := range world.InJudge[*corev1.Pod](d.w, "pods") {
		if pods.Finished(p) {
			continue
		}
		there[target(p)]++
		if p.DeletionTimestamp == nil {
			active[target(p)]++
			if n := newest[target(p)]; n == nil || n.CreationTimestamp.Before(&p.CreationTimestamp) {
				newest[target(p)] = p
			}
			if pods.Ready(p) {
				ready[target(p)]++
			}
		}
	}
	alive := map[string]bool{} // the pods of a node that is gone serve nobody
	for _, n := range world.InJudge[*corev1.Node](d.w, "minions") {
		alive[n.Name] = time.Now().After(d.excused[n.Name])
	}
	extra := 0
	for node, n := range there {
		switch {
		case n == 1:
		case d.surge == 0:
			d.w.Failf("%d pods on %s", n, node)
		case active[node] > 2:
			d.w.Failf("%d pods on %s", active[node], node)
		case active[node] == 2 && ready[node] > 0 && d.surged[newest[node].Name] && alive[node]:
			extra++
		}
	}
	if extra > d.surge {
		d.w.Failf("%d nodes have a pod more, more than %d", extra, d.surge)
	}
	old, _ := c.Old.(*corev1.Pod)
	now, _ := c.New.(*corev1.Pod)
	if old == nil || now == nil || old.DeletionTimestamp != nil || now.DeletionTimestamp == nil || !pods.Ready(old) || ready[target(old)] > 0 || !strings.HasSuffix(c.Actor, ":daemon-set-controller") {
		return
	}
	if time.Since(d.serving[old.Name]) <= known {
		return // it was believed to serve nobody
	}
	gone := 0
	for _, n := range world.InJudge[*corev1.Node](d.w, "minions") {
		if ready[n.Name] == 0 && time.Now().After(d.excused[n.Name]) {
			gone++
		}
	}
	if gone > d.unavailable {
		d.w.Failf("%s is deleted, so that %d nodes have none, more than %d", now.Name, gone, d.unavailable)
	}
}

// TestDaemonSetBounds rolls a DaemonSet from template to template while nodes
// come and go and others delete pods: there is one pod to a node (two, of the
// old and the new template, on maxSurge nodes at the most), and no more nodes
// are without than maxUnavailable.
func TestDaemonSetBounds(t *testing.T) {
	world.Histories(t, 15, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		d := &daemons{w: w, excused: map[string]time.Time{}, serving: map[string]time.Time{}, surged: map[string]bool{}}
		if rnd.IntN(2) == 0 {
			d.surge = 1 + rnd.IntN(2)
		} else {
			d.unavailable = 1 + rnd.IntN(2)
		}
		for i := range 6 {
			d.excuse(fmt.Sprintf("node-%d", i))
		}
		w.Judge(d.judge)
		k := w.Kubelets(5, service)
		sets := client.DaemonSets.In(w.Root, world.Namespace)
		_, err := sets.Create(w.T.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "agent"}, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}}, Template: template("agent", "v0"),
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
				MaxSurge: ptr.To(intstr.FromInt(d.surge)), MaxUnavailable: ptr.To(intstr.FromInt(d.unavailable))}},
		}})
		w.Must(err)
		w.SetFaults(world.Rough())
		calm := w.Lives(30*time.Second, "daemonset-controller", "pod-garbage-collector-controller")
		time.Sleep(time.Minute)
		roll := func(image string) {
			_, err := sets.Mutate(w.T.Context(), "agent", "", func(s *appsv1.DaemonSet) (bool, error) {
				s.Spec.Template.Spec.Containers[0].Image = image
				return true, nil
			})
			w.Must(err)
		}
		for i := range 8 {
			switch rnd.IntN(4) {
			case 0, 1:
				roll([]string{fmt.Sprintf("v%d", i+1), "slow"}[rnd.IntN(2)])
			case 2:
				if all := world.Objects[*corev1.Pod](w, "pods"); len(all) > 0 {
					p := all[rnd.IntN(len(all))]
					d.excuse(target(p))
					_ = client.Pods.In(w.Door("someone"), world.Namespace).Delete(w.T.Context(), p.Name, client.Options{})
				}
			case 3:
				node := fmt.Sprintf("node-%d", rnd.IntN(5))
				loseNode(w, k, node, rnd, func(string) { d.excuse(node) })
				d.excuse(node)
			}
			time.Sleep(seconds(rnd, 90))
		}
		roll("last")
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		on := map[string]int{}
		for _, p := range world.Objects[*corev1.Pod](w, "pods") {
			on[p.Spec.NodeName]++
			if !pods.Ready(p) || p.Spec.Containers[0].Image != "last" {
				w.T.Errorf("seed %d: at the end pod %s runs %s, ready=%v", w.Seed, p.Name, p.Spec.Containers[0].Image, pods.Ready(p))
			}
		}
		for i := range 5 {
			if node := fmt.Sprintf("node-%d", i); on[node] != 1 {
				w.T.Errorf("seed %d: at the end %d pods on %s", w.Seed, on[node], node)
			}
		}
	})
}
