package kubelet

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
)

// statusManager writes pod statuses to the API, at once and only when they
// changed; what changes while a write is under way goes out as one. It is safe
// for concurrent use.
type statusManager struct {
	c    client.Interface
	log  *slog.Logger
	loop *client.Loop
	// current finds the pod of a uid as the API last showed it: for static
	// pods, the mirror pod.
	current func(uid types.UID) *corev1.Pod
	// took is told how long after a change it was written, in seconds.
	took func(float64)

	mu sync.Mutex
	by map[types.UID]*podStatus
}

type podStatus struct {
	writing sync.Mutex // held over a write, so that they stay in order
	status  *corev1.PodStatus
	written *corev1.Pod // as the last write returned it
	changed time.Time   // when the first change came that is not written; zero for none
}

func newStatusManager(c client.Interface, log *slog.Logger, current func(types.UID) *corev1.Pod, took func(seconds float64)) *statusManager {
	m := &statusManager{c: c, log: log, current: current, took: took, by: map[types.UID]*podStatus{}}
	m.loop = client.NewLoop("pod status", log, func(ctx context.Context, key string) (time.Duration, error) {
		return 0, m.write(ctx, types.UID(key))
	})
	return m
}

// run writes until ctx ends.
func (m *statusManager) run(ctx context.Context) { m.loop.Run(ctx, 8) }

// set hands over a pod's status, which is transferred.
func (m *statusManager) set(pod *corev1.Pod, st *corev1.PodStatus, static bool) {
	m.mu.Lock()
	e := m.by[pod.UID]
	if e == nil {
		e = &podStatus{}
		m.by[pod.UID] = e
	}
	if e.status != nil && equality.Semantic.DeepEqual(e.status, st) && (static || equality.Semantic.DeepEqual(&pod.Status, st)) {
		m.mu.Unlock()
		return
	}
	e.status = st
	if e.changed.IsZero() {
		e.changed = time.Now()
	}
	m.mu.Unlock()
	m.loop.Add(string(pod.UID))
}

// forget drops a pod that has left the node.
func (m *statusManager) forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.by, uid)
}

// resend writes a pod's status again if the API shows another, as for a new
// mirror pod.
func (m *statusManager) resend(uid types.UID) { m.loop.Add(string(uid)) }

// flush writes a pod's status now.
func (m *statusManager) flush(ctx context.Context, uid types.UID) error { return m.write(ctx, uid) }

func (m *statusManager) write(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	e := m.by[uid]
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	m.mu.Lock()
	st := e.status
	m.mu.Unlock()
	if st == nil {
		return nil
	}
	pod := newer(m.current(uid), e.written)
	for pod != nil {
		want := mergeStatus(&pod.Status, st)
		if equality.Semantic.DeepEqual(&pod.Status, want) {
			m.told(e, st)
			return nil
		}
		next := pod.DeepCopy()
		next.Status = *want
		out, err := client.Pods.In(m.c, pod.Namespace).UpdateStatus(ctx, next)
		switch {
		case err == nil:
			e.written = out
			m.told(e, st)
			return nil
		case apierrors.IsNotFound(err):
			return nil
		case !apierrors.IsConflict(err):
			return err
		}
		was := pod.UID
		if pod, err = client.Pods.In(m.c, pod.Namespace).Get(ctx, pod.Name); apierrors.IsNotFound(err) {
			return nil
		} else if err != nil {
			return err
		}
		if pod.UID != was {
			return nil // another pod of the same name
		}
	}
	return nil
}

// told notes that a status has been written; one that came meanwhile waits
// since now. What could not be written goes on waiting.
func (m *statusManager) told(e *podStatus, st *corev1.PodStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.changed.IsZero() {
		return
	}
	m.took(time.Since(e.changed).Seconds())
	if e.changed = (time.Time{}); e.status != st {
		e.changed = time.Now()
	}
}

// newer returns the version of an object with the higher resourceVersion; a if
// b is another's.
func newer[P interface {
	comparable
	client.Object
}](a, b P) P {
	var none P
	if a == none || b == none || a.GetUID() != b.GetUID() {
		return a
	}
	va, _ := strconv.ParseUint(a.GetResourceVersion(), 10, 64)
	vb, _ := strconv.ParseUint(b.GetResourceVersion(), 10, 64)
	if vb > va {
		return b
	}
	return a
}

// mergeStatus puts the kubelet's status into the API's: what others own there
// is kept, and an ended pod never runs again.
func mergeStatus(have, st *corev1.PodStatus) *corev1.PodStatus {
	out := st.DeepCopy()
	out.NominatedNodeName, out.Resize, out.ResourceClaimStatuses = have.NominatedNodeName, have.Resize, have.ResourceClaimStatuses
	out.ExtendedResourceClaimStatus = have.ExtendedResourceClaimStatus
	if have.QOSClass != "" {
		out.QOSClass = have.QOSClass
	}
	if have.StartTime != nil {
		out.StartTime = have.StartTime
	}
	if have.Phase == corev1.PodFailed || have.Phase == corev1.PodSucceeded {
		out.Phase, out.Reason, out.Message = have.Phase, have.Reason, have.Message
	}
	conds := out.Conditions[:0:0]
	for _, c := range out.Conditions {
		if slices.Contains(ownConditions, c.Type) || c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet {
			if old := findCondition(have.Conditions, c.Type); old != nil && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			conds = append(conds, c)
		}
	}
	foreign := slices.DeleteFunc(keepConditions(have.Conditions), func(c corev1.PodCondition) bool { return findCondition(conds, c.Type) != nil })
	conds = append(conds, foreign...)
	out.Conditions = conds
	return out
}
