package revisions

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// CollisionError says that another content has the revision's name: the
// owner's count of collisions has to be raised for the next try.
type CollisionError struct{ Name string }

func (e *CollisionError) Error() string {
	return fmt.Sprintf("ControllerRevision %s has another content", e.Name)
}

// Apply makes or renumbers h.Current and puts what the server returned in its
// place. wrote is told of the write. It fails with a *CollisionError when the
// name of the new revision is taken.
func Apply(ctx context.Context, c client.Interface, o Owner, h *History, wrote func(client.Object)) error {
	res := client.ControllerRevisions.In(c, o.Object.GetNamespace())
	switch {
	case h.Create:
		name := h.Current.Name
		got, err := res.Create(ctx, h.Current)
		if apierrors.IsAlreadyExists(err) {
			return taken(ctx, res, o, h, name)
		}
		if err != nil {
			return fmt.Errorf("creating ControllerRevision: %w", err)
		}
		h.Current = got
	case h.Renumber:
		got, err := res.Update(ctx, h.Current)
		if err != nil {
			return fmt.Errorf("renumbering ControllerRevision: %w", err)
		}
		h.Current = got
	default:
		return nil
	}
	wrote(h.Current)
	return nil
}

// taken looks at what has the name: our own that the informer has yet to
// show, or something else.
func taken(ctx context.Context, res client.Resource[*appsv1.ControllerRevision], o Owner, h *History, name string) error {
	there, err := res.Get(ctx, name)
	if err != nil {
		return fmt.Errorf("looking at ControllerRevision: %w", err)
	}
	if ref := metav1.GetControllerOfNoCopy(there); ref != nil && ref.UID == o.Ref.UID && Holds(there, Data(o.Template), o.Template) {
		h.Current = there
		return nil
	}
	return &CollisionError{Name: name}
}

// Delete takes old revisions away.
func Delete(ctx context.Context, c client.Interface, namespace string, old []*appsv1.ControllerRevision) error {
	for _, r := range old {
		err := client.ControllerRevisions.In(c, namespace).Delete(ctx, r.Name, client.Exactly(r.UID))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting ControllerRevision %s: %w", r.Name, err)
		}
	}
	return nil
}
