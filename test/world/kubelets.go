package world

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
)

// Fate is what becomes of a pod.
type Fate struct {
	Bind  time.Duration // until it has a node
	Start time.Duration // from there until it runs and is ready
	Stop  time.Duration // from its deletion until it is gone
	// Never: it never becomes ready.
	Never bool
	// Run is how long it runs until it ends with Exit; 0 is for ever.
	Run  time.Duration
	Exit int32
	// Flap is how long it is ready, and then is not for as long; 0 is always.
	Flap time.Duration
}

// Kubelets are the nodes, with their scheduler.
type Kubelets struct {
	w    *World
	fate func(p *corev1.Pod, rnd *rand.Rand) Fate

	mu   sync.Mutex
	rnd  *rand.Rand
	pods map[types.UID]chan *corev1.Pod
	dead map[string]chan struct{} // by node; closed when it is back
}

// Kubelets makes nodes node-0 to node-n and what runs on them: fate says, once
// for each pod, what becomes of it. They live until the test ends.
func (w *World) Kubelets(n int, fate func(p *corev1.Pod, rnd *rand.Rand) Fate) *Kubelets {
	w.T.Helper()
	k := &Kubelets{w: w, fate: fate, rnd: rand.New(rand.NewPCG(w.Seed, 4)), pods: map[types.UID]chan *corev1.Pod{}, dead: map[string]chan struct{}{}}
	for i := range n {
		k.AddNode(fmt.Sprintf("node-%d", i))
	}
	go k.run(w.T.Context())
	return k
}

// AddNode makes a node, or makes it anew.
func (k *Kubelets) AddNode(name string) {
	k.w.T.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n, err := client.Nodes.In(k.w.Root, "").Create(k.w.T.Context(), n)
	k.w.Must(err)
	n = n.DeepCopy()
	now := metav1.Now()
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}}
	_, err = client.Nodes.In(k.w.Root, "").UpdateStatus(k.w.T.Context(), n)
	k.w.Must(err)
	// A new node is tainted until the node lifecycle has seen it; there may be none here.
	_, err = client.Nodes.In(k.w.Root, "").Mutate(k.w.T.Context(), name, "", func(n *corev1.Node) (bool, error) {
		n.Spec.Taints = nil
		return true, nil
	})
	k.w.Must(err)
}

// Lose ends all life on a node, until Revive: nobody there hears of deletions.
func (k *Kubelets) Lose(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead[node] == nil {
		k.dead[node] = make(chan struct{})
	}
}

// Revive ends Lose.
func (k *Kubelets) Revive(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.dead[node]; c != nil {
		close(c)
		delete(k.dead, node)
	}
}

func (k *Kubelets) down(node string) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dead[node]
}

func (k *Kubelets) run(ctx context.Context) {
	for ctx.Err() == nil {
		in, err := client.Pods.In(k.w.Root, "").Watch(ctx, client.Options{})
		if err != nil {
			continue
		}
		for e := range in.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				break
			}
			k.mu.Lock()
			c := k.pods[p.UID]
			switch {
			case e.Type == watch.Deleted:
				if c != nil {
					close(c)
					delete(k.pods, p.UID)
				}
			case c == nil:
				c = make(chan *corev1.Pod, 1000)
				k.pods[p.UID] = c
				go k.live(ctx, p, c, k.fate(p, k.rnd))
				fallthrough
			default:
				c <- p
			}
			k.mu.Unlock()
		}
		in.Stop()
	}
}

// life is a pod as its node has it.
type life struct {
	k      *Kubelets
	p      *corev1.Pod
	seen   <-chan *corev1.Pod
	gone   bool
	ending bool
}

// wait lets time pass, if the pod does not end before; false when it does, or
// has. A lost node's time stands still.
func (l *life) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for !l.gone && !l.ending {
		select {
		case p, ok := <-l.seen:
			if !ok {
				l.gone = true
				return false
			}
			l.p = p
			l.ending = p.DeletionTimestamp != nil
		case <-t.C:
			return l.awake(ctx)
		case <-ctx.Done():
			l.gone = true
		}
	}
	return false
}

// awake waits until the pod's node is there; false when the pod is gone.
func (l *life) awake(ctx context.Context) bool {
	for !l.gone {
		down := l.k.down(l.p.Spec.NodeName)
		if down == nil {
			return !l.ending
		}
		select {
		case <-down:
		case p, ok := <-l.seen:
			if !ok {
				l.gone = true
				return false
			}
			l.p = p
			l.ending = p.DeletionTimestamp != nil
		case <-ctx.Done():
			l.gone = true
		}
	}
	return false
}

func (k *Kubelets) live(ctx context.Context, p *corev1.Pod, seen <-chan *corev1.Pod, f Fate) {
	l := &life{k: k, p: p, seen: seen}
	defer func() { // the run loop must not block
		for !l.gone {
			select {
			case _, ok := <-seen:
				l.gone = !ok
			case <-ctx.Done():
				l.gone = true
			}
		}
	}()
	l.play(ctx, f)
	for !l.gone && !l.ending { // done, but for its deletion
		l.wait(ctx, time.Hour)
	}
	if l.gone {
		return
	}
	l.end(ctx, f)
}

// end stops a pod that is being deleted.
func (l *life) end(ctx context.Context, f Fate) {
	if l.p.Spec.NodeName == "" {
		return // the API server deletes such at once
	}
	stop := f.Stop
	if g := l.p.DeletionGracePeriodSeconds; g != nil {
		stop = min(stop, time.Duration(*g)*time.Second)
	}
	l.ending = false
	t := time.NewTimer(stop)
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	t.Stop()
	l.awake(ctx)
	if ctx.Err() != nil || l.gone {
		return
	}
	door := l.k.w.Door("kubelet")
	if !pods.Finished(l.p) {
		l.status(ctx, func(st *corev1.PodStatus) {
			st.Phase = corev1.PodFailed // it was stopped before its end
			if l.p.Spec.RestartPolicy == corev1.RestartPolicyAlways {
				st.Phase = corev1.PodSucceeded
			}
		}, false)
	}
	zero := int64(0)
	err := client.Pods.In(door, l.p.Namespace).Delete(ctx, l.p.Name, client.Options{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &l.p.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		l.k.w.T.Errorf("a kubelet could not delete %s: %v", l.p.Name, err)
	}
}

func (l *life) play(ctx context.Context, f Fate) {
	if l.p.Spec.NodeName == "" {
		if !l.wait(ctx, f.Bind) || !l.bind(ctx) {
			return
		}
	}
	if !l.wait(ctx, f.Start) {
		return
	}
	if pods.Finished(l.p) || f.Never {
		return
	}
	now := metav1.Now()
	l.status(ctx, func(st *corev1.PodStatus) { st.Phase, st.StartTime = corev1.PodRunning, &now }, true)
	began := time.Now()
	ready := true
	for {
		step := time.Duration(1<<62 - 1)
		if f.Flap > 0 {
			step = f.Flap
		}
		if f.Run > 0 {
			step = min(step, f.Run-time.Since(began))
		}
		if !l.wait(ctx, step) {
			return
		}
		if pods.Finished(l.p) {
			return
		}
		if f.Run > 0 && time.Since(began) >= f.Run {
			l.finish(ctx, f)
			return
		}
		ready = !ready
		l.status(ctx, func(*corev1.PodStatus) {}, ready)
	}
}

func (l *life) finish(ctx context.Context, f Fate) {
	l.status(ctx, func(st *corev1.PodStatus) {
		st.Phase = corev1.PodSucceeded
		if f.Exit != 0 {
			st.Phase = corev1.PodFailed
		}
		st.ContainerStatuses = []corev1.ContainerStatus{{Name: l.p.Spec.Containers[0].Name, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: f.Exit, FinishedAt: metav1.Now()},
		}}}
	}, false)
}

// status writes what the kubelet sees of the pod.
func (l *life) status(ctx context.Context, change func(*corev1.PodStatus), ready bool) {
	_, err := client.Pods.In(l.k.w.Door("kubelet"), l.p.Namespace).Mutate(ctx, l.p.Name, "status", func(p *corev1.Pod) (bool, error) {
		if p.UID != l.p.UID {
			return false, nil
		}
		if pods.Finished(p) {
			return false, nil
		}
		change(&p.Status)
		c := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
		if ready {
			c.Status = corev1.ConditionTrue
		}
		pods.SetCondition(p, c)
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		l.k.w.T.Errorf("a kubelet could not write the status of %s: %v", l.p.Name, err)
	}
}

// bind gives the pod the node that it asks for, or one that lives; it waits
// for one.
func (l *life) bind(ctx context.Context) bool {
	for {
		node := l.k.place(l.p)
		if node != "" {
			b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: l.p.Name, UID: l.p.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
			_, err := client.Pods.In(l.k.w.Door("scheduler"), l.p.Namespace).CreateSub(ctx, l.p.Name, "binding", b)
			if err != nil {
				return false
			}
			for l.p.Spec.NodeName == "" && !l.gone && !l.ending {
				l.wait(ctx, time.Millisecond)
			}
			return !l.gone && !l.ending
		}
		if !l.wait(ctx, time.Second) {
			return false
		}
	}
}

func (k *Kubelets) place(p *corev1.Pod) string {
	wanted := ""
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, f := range term.MatchFields {
				wanted = f.Values[0]
			}
		}
	}
	var fit []string
	for _, n := range Objects[*corev1.Node](k.w, "minions") {
		if (wanted == "" || n.Name == wanted) && k.down(n.Name) == nil && len(n.Spec.Taints) == 0 {
			fit = append(fit, n.Name)
		}
	}
	if len(fit) == 0 {
		return ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return fit[k.rnd.IntN(len(fit))]
}
