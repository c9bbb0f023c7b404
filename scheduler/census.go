package scheduler

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Why pods come into the queue, in upstream's words.
const (
	podAdded      = "UnschedulablePodAdd"
	attemptFailed = "ScheduleAttemptFailure"
)

// eventNames are upstream's, but for the last two, which upstream tells apart
// by the kind of the object.
var eventNames = [...]struct {
	ev   Event
	name string
}{
	{NodeAdded, "NodeAdd"}, {NodeAllocatable, "NodeUpdateNodeAllocatable"}, {NodeLabels, "NodeUpdateNodeLabel"},
	{NodeTaints | NodeUnschedulable, "NodeUpdateNodeTaint"}, {PodRemoved, "AssignedPodDelete"}, {PodPlaced, "AssignedPodAdd"},
	{PodUpdated, "UnschedulablePodUpdate"}, {Timeout, "UnschedulableTimeout"},
	{StorageChanged, "StorageChange"}, {DevicesChanged, "DevicesChange"},
}

// name is what the event is called in metrics; of several the first.
func (e Event) name() string {
	for i := range eventNames {
		if e&eventNames[i].ev != 0 {
			return eventNames[i].name
		}
	}
	return ""
}

// refusal is a plugin that holds a pod of a profile back.
type refusal struct{ plugin, profile string }

// census is how many pods wait, by why they do. Gated are those that were never
// tried; a pod that is being tried is in none.
type census struct {
	active, backoff, unschedulable, gated int
	refused                               map[refusal]int
}

func (q *Queue) census() census {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := census{active: len(q.active), backoff: len(q.backoff), gated: len(q.gated), refused: map[refusal]int{}}
	for _, profile := range q.gated {
		c.refused[refusal{"SchedulingGates", profile}]++
	}
	for _, e := range q.pods {
		switch {
		case e.state == unschedulable && e.attempts == 0:
			c.gated++
		case e.state == unschedulable:
			c.unschedulable++
		}
		for plugin := range e.blamed {
			c.refused[refusal{plugin, e.Spec.SchedulerName}]++
		}
	}
	return c
}

// blame notes which plugins refused a pod; they are the queue's from then on.
func (q *Queue) blame(uid types.UID, plugins map[string]bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e, ok := q.pods[uid]; ok {
		e.blamed = plugins
	}
}

// attempt says of a pod that was taken out with Next which attempt this is,
// when it began, and when the pod came. ok is false if it is gone.
func (q *Queue) attempt(uid types.UID) (n int, began, came time.Time, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.pods[uid]
	if !ok {
		return 0, began, came, false
	}
	return e.attempts + 1, e.tried, e.added, true
}
