package plugins

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/coxswain/cox/api/localvolumes"
	"github.com/coxswain/cox/apiserver/admission"
)

// volume lets a node take the local provisioner's finalizer off its own
// volumes, once their directories are gone, and change nothing else of any.
func (r *restriction) volume() string {
	was, ok := r.a.Old.(*corev1.PersistentVolume)
	is, ok2 := r.a.Object.(*corev1.PersistentVolume)
	if r.a.Operation != admission.Update || r.a.Subresource != "" || !ok || !ok2 {
		return fmt.Sprintf("node %q can only update persistent volumes", r.node)
	}
	if was.Labels[localvolumes.NodeLabel] != r.node {
		return fmt.Sprintf("node %q can only update persistent volumes that it holds", r.node)
	}
	want, have := was.DeepCopy(), is.DeepCopy()
	want.Finalizers = slices.DeleteFunc(want.Finalizers, func(f string) bool { return f == localvolumes.Finalizer })
	have.Finalizers = slices.DeleteFunc(have.Finalizers, func(f string) bool { return f == localvolumes.Finalizer && slices.Contains(was.Finalizers, f) })
	have.ManagedFields, have.ResourceVersion = want.ManagedFields, want.ResourceVersion
	if !equality.Semantic.DeepEqual(want, have) {
		return fmt.Sprintf("node %q can only remove the finalizer %s from its persistent volumes", r.node, localvolumes.Finalizer)
	}
	return ""
}
