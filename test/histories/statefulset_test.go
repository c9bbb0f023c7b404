package histories_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/test/world"
)

// ordinal is the number at the end of a pod's name.
func ordinal(name string) int {
	n, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	if err != nil {
		panic(err)
	}
	return n
}

// members judges the pods of one StatefulSet.
type members struct {
	w        *world.World
	mu       sync.Mutex
	ordered  bool
	missing  int // maxUnavailable
	replicas int
	// before are the numbers of replicas that were wanted once, and until when
	// a controller may not have seen that another number is.
	before map[int]time.Time
	start  int
	// excused are the pods that others have disturbed, until this time.
	excused map[string]time.Time
}

func (m *members) excuse(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.excused[name] = time.Now().Add(late)
}

// late is how long a controller may know no better than what was: its watch may
// be behind, or broken and waiting to be tried again.
const late = 20 * time.Second

// scale changes how many replicas are wanted.
func (m *members) scale(replicas int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before[m.replicas] = time.Now().Add(late)
	m.replicas = replicas
}

// deleted says what is wrong with the deletion of a pod by its controller, if
// so many replicas are wanted; "" is nothing.
func (m *members) deleted(old *corev1.Pod, replicas int, serving, present map[int]*corev1.Pod) string {
	n := ordinal(old.Name)
	if n >= m.start+replicas || n < m.start {
		for i := range present {
			if m.ordered && i > n && (i >= m.start+replicas || i < m.start) {
				return fmt.Sprintf("%s is deleted before number %d is gone", old.Name, i)
			}
		}
		return ""
	}
	if !pods.Ready(old) {
		return ""
	}
	gone := 0
	for i := m.start; i < m.start+replicas; i++ {
		if serving[i] == nil && time.Now().After(m.excused[fmt.Sprintf("db-%d", i)]) {
			gone++
		}
	}
	if gone > m.missing {
		return fmt.Sprintf("%s is deleted, so that %d are missing, more than %d", old.Name, gone, m.missing)
	}
	return ""
}

// serving are the pods that are there and ready, by ordinal; present all.
func (m *members) look() (serving, present map[int]*corev1.Pod) {
	serving, present = map[int]*corev1.Pod{}, map[int]*corev1.Pod{}
	for _, p := range world.InJudge[*corev1.Pod](m.w, "pods") {
		n := ordinal(p.Name)
		present[n] = p
		if pods.Active(p) && pods.Ready(p) || time.Now().Before(m.excused[p.Name]) {
			serving[n] = p
		}
	}
	return serving, present
}

func (m *members) judge(c world.Change) {
	if c.Resource != "pods" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, _ := c.Old.(*corev1.Pod)
	now, _ := c.New.(*corev1.Pod)
	byController := strings.HasSuffix(c.Actor, ":statefulset-controller")
	serving, present := m.look()
	n := ordinal(c.Object().GetName())
	switch {
	case now == nil && old.Spec.NodeName != "" && byController && !pods.Finished(old):
		m.w.Failf("%s was taken away while its node may still run it", old.Name)
	case old == nil && m.ordered:
		for i := m.start; i < n; i++ {
			if serving[i] == nil && time.Now().After(m.excused[fmt.Sprintf("db-%d", i)]) {
				m.w.Failf("%s was made before number %d serves", now.Name, i)
			}
		}
	case old != nil && now != nil && old.DeletionTimestamp == nil && now.DeletionTimestamp != nil && byController && !pods.Finished(old):
		wrong := m.deleted(old, m.replicas, serving, present)
		for replicas, until := range m.before {
			if wrong != "" && time.Now().Before(until) && m.deleted(old, replicas, serving, present) == "" {
				wrong = ""
			}
		}
		if wrong != "" {
			m.w.Failf("%s", wrong)
		}
	}
}

// TestStatefulSetIdentities scales and rolls a StatefulSet while its
// controller lives short lives, pods are deleted by others and nodes are lost:
// pods come and go in order, no more are missing than may be, and a name is
// taken anew only when its pod has gone for certain.
func TestStatefulSetIdentities(t *testing.T) {
	world.Histories(t, 15, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		m := &members{w: w, ordered: rnd.IntN(3) > 0, missing: 1 + rnd.IntN(2), replicas: 1 + rnd.IntN(5), start: rnd.IntN(2) * 3, excused: map[string]time.Time{}, before: map[int]time.Time{}}
		w.Judge(m.judge)
		k := w.Kubelets(4, service)
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "db"}, Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(int32(m.replicas)), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Template: template("db", "v0"), PodManagementPolicy: appsv1.OrderedReadyPodManagement, Ordinals: &appsv1.StatefulSetOrdinals{Start: int32(m.start)},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: ptr.To(intstr.FromInt(m.missing))}},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity("1Gi")}},
			}}},
		}}
		if !m.ordered {
			set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		}
		sets := client.StatefulSets.In(w.Root, world.Namespace)
		_, err := sets.Create(w.T.Context(), set)
		w.Must(err)
		w.SetFaults(world.Rough())
		calm := w.Lives(30*time.Second, "statefulset-controller", "pod-garbage-collector-controller")
		time.Sleep(2 * time.Minute)
		image, partition := "v0", 0
		for i := range 8 {
			switch rnd.IntN(5) {
			case 0, 1:
				image, partition = fmt.Sprintf("v%d", i+1), 0
				if rnd.IntN(3) == 0 {
					partition = m.start + rnd.IntN(m.replicas+1)
				}
			case 2:
				m.scale(1 + rnd.IntN(5))
			case 3:
				if all := world.Objects[*corev1.Pod](w, "pods"); len(all) > 0 {
					p := all[rnd.IntN(len(all))]
					m.excuse(p.Name)
					_ = client.Pods.In(w.Door("someone"), world.Namespace).Delete(w.T.Context(), p.Name, client.Options{})
				}
			case 4:
				loseNode(w, k, fmt.Sprintf("node-%d", rnd.IntN(4)), rnd, m.excuse)
			}
			_, err := sets.Mutate(w.T.Context(), "db", "", func(s *appsv1.StatefulSet) (bool, error) {
				s.Spec.Replicas = ptr.To(int32(m.replicas))
				s.Spec.Template.Spec.Containers[0].Image = image
				s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To(int32(partition))
				return true, nil
			})
			w.Must(err)
			time.Sleep(seconds(rnd, 90))
		}
		_, err = sets.Mutate(w.T.Context(), "db", "", func(s *appsv1.StatefulSet) (bool, error) {
			s.Spec.Template.Spec.Containers[0].Image = "last"
			s.Spec.UpdateStrategy.RollingUpdate.Partition = nil
			return true, nil
		})
		w.Must(err)
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		all := world.Objects[*corev1.Pod](w, "pods")
		for _, p := range all {
			n := ordinal(p.Name)
			if !pods.Ready(p) || p.Spec.Containers[0].Image != "last" || n < m.start || n >= m.start+m.replicas {
				w.T.Errorf("seed %d: at the end pod %s runs %s, ready=%v", w.Seed, p.Name, p.Spec.Containers[0].Image, pods.Ready(p))
			}
		}
		s, err := sets.Get(w.T.Context(), "db")
		w.Must(err)
		want := int32(m.replicas)
		if st := s.Status; len(all) != m.replicas || st.Replicas != want || st.ReadyReplicas != want || st.UpdatedReplicas != want || st.CurrentReplicas != want ||
			st.CurrentRevision != st.UpdateRevision || st.ObservedGeneration != s.Generation {
			w.T.Errorf("seed %d: at the end %d pods, want %d: %+v", w.Seed, len(all), m.replicas, st)
		}
	})
}

// loseNode breaks a node for a while; if that is for good, its object is
// deleted, which says that nothing runs there any more.
func loseNode(w *world.World, k *world.Kubelets, node string, rnd *rand.Rand, excuse func(pod string)) {
	for _, p := range world.Objects[*corev1.Pod](w, "pods") {
		if p.Spec.NodeName == node {
			excuse(p.Name)
		}
	}
	k.Lose(node)
	time.Sleep(seconds(rnd, 60))
	if rnd.IntN(2) == 0 {
		k.Revive(node)
		return
	}
	for _, p := range world.Objects[*corev1.Pod](w, "pods") {
		if p.Spec.NodeName == node {
			excuse(p.Name)
		}
	}
	w.Must(client.Nodes.In(w.Root, "").Delete(w.T.Context(), node, client.Options{}))
	// Its pods are collected 40 s after it was seen to be missing; until then
	// it must not come back.
	for left := true; left; {
		time.Sleep(10 * time.Second)
		left = false
		for _, p := range world.Objects[*corev1.Pod](w, "pods") {
			if p.Spec.NodeName == node {
				left = true
				excuse(p.Name)
			}
		}
	}
	k.Revive(node)
	k.AddNode(node)
}
