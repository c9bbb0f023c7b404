package controllers

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
)

// Claim is who owns what among candidates: a pure function's answer.
type Claim[T client.Object] struct {
	Owned   []T // controlled and selected
	Adopt   []T // selected orphans; owned once adopted
	Release []T // controlled but selected no longer
}

// Claims sorts candidates (objects that the owner controls, and orphans of
// its namespace) by what is to be done with them. An owner that is being
// deleted adopts and releases nothing.
func Claims[T client.Object](owner metav1.Object, sel labels.Selector, candidates []T) Claim[T] {
	var c Claim[T]
	deleting := owner.GetDeletionTimestamp() != nil
	for _, o := range candidates {
		ref := metav1.GetControllerOfNoCopy(o)
		matches := sel.Matches(labels.Set(o.GetLabels()))
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && matches:
			c.Owned = append(c.Owned, o)
		case ref != nil && !deleting:
			c.Release = append(c.Release, o)
		case ref == nil && matches && !deleting && o.GetDeletionTimestamp() == nil:
			c.Adopt = append(c.Adopt, o)
		}
	}
	return c
}

// ApplyClaim adopts and releases, and returns what the owner then has. Before
// the first adoption alive is asked for the owner's current state: an owner
// that was deleted and made anew since the informers saw it adopts nothing.
// Objects that vanished or changed hands meanwhile are left out.
func ApplyClaim[T client.Object](ctx context.Context, c client.Interface, k client.Kind[T], owner metav1.OwnerReference, namespace string,
	claim Claim[T], alive func(ctx context.Context) (metav1.Object, error), wrote func(T)) ([]T, error) {
	owned := claim.Owned
	res := k.In(c, namespace)
	for _, o := range claim.Release {
		_, err := res.Patch(ctx, o.GetName(), types.StrategicMergePatchType, releasePatch(owner.UID, o.GetUID()))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			return nil, err
		}
	}
	if len(claim.Adopt) == 0 {
		return owned, nil
	}
	cur, err := alive(ctx)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return owned, nil
		}
		return nil, err
	}
	if cur.GetUID() != owner.UID || cur.GetDeletionTimestamp() != nil {
		return owned, nil
	}
	for _, o := range claim.Adopt {
		got, err := res.Patch(ctx, o.GetName(), types.StrategicMergePatchType, adoptPatch(owner, o.GetUID()))
		if err != nil {
			if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsConflict(err) {
				continue
			}
			return nil, err
		}
		wrote(got)
		owned = append(owned, got)
	}
	return owned, nil
}

func adoptPatch(owner metav1.OwnerReference, uid types.UID) []byte {
	return ownersPatch(uid, []any{owner})
}

func releasePatch(owner, uid types.UID) []byte {
	return ownersPatch(uid, []any{map[string]any{"$patch": "delete", "uid": owner}})
}

// ownersPatch carries the object's UID, so that the server refuses it for
// another object of the same name.
func ownersPatch(uid types.UID, owners []any) []byte {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid, "ownerReferences": owners}})
	if err != nil {
		panic(err) // strings and booleans only
	}
	return data
}

// NamespaceEnding says that err refuses a create because its namespace is
// being deleted: nothing that a retry would change.
func NamespaceEnding(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// WakeOwner puts the object that controls o into the loop, if it is one of
// the informer's kind gvk; for an orphan, those whose selector (which selects
// nothing where it is empty or broken) would let them adopt it. An orphan that
// is being deleted wakes nobody.
func WakeOwner[T client.Object](loop *client.Loop, owners client.Informer[T], gvk schema.GroupVersionKind, selector func(T) *metav1.LabelSelector, o client.Object) {
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		if ControlledBy(ref, gvk) {
			loop.Add(o.GetNamespace() + "/" + ref.Name)
		}
		return
	}
	if o.GetDeletionTimestamp() != nil {
		return
	}
	for _, owner := range owners.List(o.GetNamespace(), nil) {
		if sel, err := metav1.LabelSelectorAsSelector(selector(owner)); err == nil && !sel.Empty() && sel.Matches(labels.Set(o.GetLabels())) {
			loop.AddObject(owner)
		}
	}
}
