package controllers

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/client"
)

// Create makes obj, which is transferred, on behalf of key, and has w remember
// it: what was made, or the doubt whether something was. The error is the
// API's.
func Create[T client.Object](ctx context.Context, c client.Interface, k client.Kind[T], w *client.Writes, key string, obj T) (T, error) {
	got, err := k.In(c, obj.GetNamespace()).Create(ctx, obj)
	return remember(w, key, got, err)
}

// Update replaces an object on behalf of key, and has w remember it as Create
// does. obj is transferred.
func Update[T client.Object](ctx context.Context, c client.Interface, k client.Kind[T], w *client.Writes, key string, obj T) (T, error) {
	got, err := k.In(c, obj.GetNamespace()).Update(ctx, obj)
	return remember(w, key, got, err)
}

// remember has w know what a write came to, and passes that on.
func remember[T client.Object](w *client.Writes, key string, got T, err error) (T, error) {
	switch {
	case err == nil:
		w.Wrote(key, got)
	case client.Doubtful(err):
		w.Doubt(key)
	}
	return got, err
}

// Delete deletes this very object, and no other of its name, on behalf of key,
// and has w remember it. done is false, without an error, if it was gone
// already and the informer has yet to see that.
func Delete[T client.Object](ctx context.Context, c client.Interface, k client.Kind[T], w *client.Writes, key string, obj T, o client.Options) (done bool, err error) {
	uid := obj.GetUID()
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	o.Preconditions.UID = &uid
	w.Deleted(key, obj)
	err = k.In(c, obj.GetNamespace()).Delete(ctx, obj.GetName(), o)
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err) && o.Preconditions.ResourceVersion == nil:
		return false, nil
	case client.Doubtful(err):
		w.Doubt(key)
	default:
		w.Undelete(key, obj)
	}
	return false, err
}

// Settle asks the API which objects owner has, if a write to one of them is in
// doubt: what was made or deleted without an answer must not be done again
// before the informer shows it.
func Settle[T client.Object](ctx context.Context, c client.Interface, k client.Kind[T], w *client.Writes, key string, owner client.Object, sel labels.Selector) error {
	if !w.InDoubt(key) {
		return nil
	}
	all, _, err := k.In(c, owner.GetNamespace()).List(ctx, client.Options{LabelSelector: sel})
	if err != nil {
		return fmt.Errorf("looking at what became of a write: %w", err)
	}
	var owned []client.Object
	for _, o := range all {
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil && ref.UID == owner.GetUID() {
			owned = append(owned, o)
		}
	}
	w.Learn(key, owned)
	return nil
}
