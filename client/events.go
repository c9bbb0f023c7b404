package client

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
)

// Recorder writes Events about objects. Its methods return at once: an event
// waits in a bounded queue (and is dropped when that is full) for the one
// goroutine that writes them in order. Repeated events are counted up and
// spam is filtered as client-go does. It is safe for concurrent use.
type Recorder = record.EventRecorder

// NewRecorder starts a recorder that writes through c as component until ctx
// ends. host names the node that the component runs on, "" for a component of
// the control plane.
func NewRecorder(ctx context.Context, c Interface, component, host string) Recorder {
	b := record.NewBroadcaster(record.WithContext(ctx), record.WithSleepDuration(2*time.Second))
	b.StartRecordingToSink(&eventSink{ctx: ctx, c: c})
	return b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: host})
}

// eventSink lets client-go's broadcaster write through a door.
type eventSink struct {
	ctx context.Context
	c   Interface
}

func (s *eventSink) in(e *corev1.Event) Resource[*corev1.Event] {
	ns := e.Namespace
	if ns == "" {
		ns = metav1.NamespaceDefault // events about cluster-scoped objects
	}
	return Events.In(s.c, ns)
}

// Create copies the event, which the broadcaster keeps for a retry: what goes
// through a door is transferred.
func (s *eventSink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.in(e).Create(s.ctx, e.DeepCopy())
}

func (s *eventSink) Update(e *corev1.Event) (*corev1.Event, error) {
	return s.in(e).Update(s.ctx, e.DeepCopy())
}

func (s *eventSink) Patch(old *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.in(old).Patch(s.ctx, old.Name, types.StrategicMergePatchType, data)
}
