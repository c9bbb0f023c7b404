// Package controllers holds what every controller is given (an identity of
// its own for writes, shared informers for reads, an event recorder) and the
// rules of ownership that they share. Each controller has a folder: a pure
// plan in plan.go, and plumbing in controller.go that feeds it and applies
// what it returns. The manager folder starts them all.
package controllers

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/client"
)

// Env is what a controller works with. Informers are shared between
// controllers; Client and Events carry the controller's own identity.
type Env struct {
	Client    client.Interface
	Informers *client.Informers
	Events    client.Recorder
	Log       *slog.Logger
	Clock     clock.Clock
	// Metrics measure the loops; nil measures nothing.
	Metrics *client.Metrics
	// Counts count what is done; nil counts nothing.
	Counts *Counts
	// Workers is how many keys are reconciled at once; 0 is the controller's
	// own number.
	Workers int
}

// WorkersOr is Workers, or n where that is 0.
func (e Env) WorkersOr(n int) int {
	if e.Workers > 0 {
		return e.Workers
	}
	return n
}

// NewLoop makes a measured loop. The name is that of upstream's work queue of
// the same purpose, by which dashboards know it.
func (e Env) NewLoop(queue string, reconcile func(ctx context.Context, key string) (again time.Duration, err error)) *client.Loop {
	return client.NewMeasuredLoop(queue, e.Metrics, e.Log, reconcile)
}

// Controller is a started part of the manager. Run is called after the
// informers have synced; it works until ctx ends.
type Controller interface {
	Run(ctx context.Context)
}

// OwnerIndex is the name of the index of pods, replica sets and the like by
// what controls them: OwnedBy(uid), or OrphansIn(namespace) for those that
// nothing does.
const OwnerIndex = "controller"

// OwnedBy is the index value of what the owner with this UID controls.
func OwnedBy(uid string) string { return uid }

// OrphansIn is the index value of a namespace's objects without controller.
func OrphansIn(namespace string) string { return "orphans/" + namespace }

// ByOwner is the function behind OwnerIndex.
func ByOwner[T client.Object](obj T) []string {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		return []string{OwnedBy(string(ref.UID))}
	}
	return []string{OrphansIn(obj.GetNamespace())}
}

// NodeIndex is the name of the index of pods by the node they are bound to.
const NodeIndex = "node"

// ByNode is the function behind NodeIndex.
func ByNode(p *corev1.Pod) []string {
	if p.Spec.NodeName == "" {
		return nil
	}
	return []string{p.Spec.NodeName}
}

// ClaimIndex is the name of the index of pods by ClaimKeys.
const ClaimIndex = "claim"

// ClaimKeys are the claims that a pod names, as namespace/name, whoever they
// belong to. It is the function behind ClaimIndex.
func ClaimKeys(pod *corev1.Pod) []string {
	out := podspec.ClaimNames(pod)
	for i := range out {
		out[i] = pod.Namespace + "/" + out[i]
	}
	return out
}

// On has f called with the new and the old object of every change, as OnChange
// does, for handlers that stay as long as their informer.
func On[T client.Object](i client.Informer[T], f func(obj, old T)) error {
	_, err := i.OnChange(f)
	return err
}

// OnEach has f called with what an object is now and with what it was before,
// whichever there is.
func OnEach[T interface {
	client.Object
	comparable
}](i client.Informer[T], f func(T)) error {
	return On(i, func(obj, old T) {
		var none T
		for _, o := range [...]T{old, obj} {
			if o != none {
				f(o)
			}
		}
	})
}

// Follow puts every object that has come, changed or gone into the loop.
func Follow[T interface {
	client.Object
	comparable
}](l *client.Loop, i client.Informer[T]) error {
	return On(i, func(obj, old T) {
		var none T
		if obj == none {
			obj = old
		}
		l.AddObject(obj)
	})
}

// ControlledBy says that ref names a controller of this kind, in any version
// of its group.
func ControlledBy(ref *metav1.OwnerReference, gvk schema.GroupVersionKind) bool {
	if ref == nil || ref.Kind != gvk.Kind {
		return false
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && gv.Group == gvk.Group
}
