package plugins

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// namespaceLifecycle refuses new objects in a namespace that is absent or
// being deleted, before anything else looks at them, and the deletion of the
// namespaces that a cluster needs.
func namespaceLifecycle(d deps) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Delete), admit: d.namespaceAlive}
}

var immortal = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

func (d deps) namespaceAlive(ctx context.Context, a *admission.Attributes) error {
	if a.Resource.GroupResource() == namespacesResource {
		if a.Operation == admission.Delete && slices.Contains(immortal, a.Name) {
			return forbid(a, "this namespace may not be deleted")
		}
		return nil
	}
	if a.Namespace == "" || a.Operation != admission.Create {
		return nil
	}
	if a.Resource.Group == "authorization.k8s.io" { // asks about rights, stores nothing
		return nil
	}
	ns, err := get(ctx, client.Namespaces.In(d.door, ""), a.Namespace)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	refusal := apierrors.NewForbidden(a.Resource.GroupResource(), a.ShownName(),
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.Namespace))
	refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace),
		Field:   "metadata.namespace",
	})
	return refusal
}
