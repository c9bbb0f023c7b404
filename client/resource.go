package client

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Object is what every API object is: a typed value with object metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind names a resource together with its Go type. The kinds that components
// use are listed in kinds.go.
type Kind[T Object] struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	// New makes an empty object; the remote transport and informers need it.
	New func() T
	// NewList makes an empty typed list; only the remote transport needs it.
	NewList func() runtime.Object
}

// GVK is the group, version and kind.
func (k Kind[T]) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// In gives typed access to the kind through c, in one namespace ("" for
// cluster-scoped kinds, and to list or watch all namespaces).
func (k Kind[T]) In(c Interface, namespace string) Resource[T] {
	return Resource[T]{c: c, kind: k, ns: namespace}
}

// Resource is typed access to one kind in one namespace. What its methods
// return is shared and read only; what they are given is transferred. Errors
// are those of Interface. It is safe for concurrent use.
type Resource[T Object] struct {
	c    Interface
	kind Kind[T]
	ns   string
}

func (r Resource[T]) request(v Verb, name string, opts []Option) *Request {
	req := &Request{Verb: v, Resource: r.kind.GroupVersionResource, Namespace: r.ns, Name: name}
	for _, o := range opts {
		o(req)
	}
	return req
}

// Option changes a request before it is sent.
type Option func(*Request)

// Sub directs the request at a subresource.
func Sub(name string) Option { return func(r *Request) { r.Subresource = name } }

// WithOptions replaces the request's options.
func WithOptions(o Options) Option { return func(r *Request) { r.Options = o } }

func (r Resource[T]) do(ctx context.Context, req *Request) (T, error) {
	var zero T
	res, err := r.c.Do(ctx, req)
	if err != nil {
		return zero, err
	}
	obj, ok := res.Object.(T)
	if !ok {
		if _, isStatus := res.Object.(*metav1.Status); isStatus {
			return zero, nil
		}
		return zero, fmt.Errorf("%s %s/%s: got %T, want %T", req.Verb, r.kind.Resource, req.Name, res.Object, zero)
	}
	return obj, nil
}

// Get reads one object, the newest unless an option says otherwise.
func (r Resource[T]) Get(ctx context.Context, name string, opts ...Option) (T, error) {
	return r.do(ctx, r.request(Get, name, opts))
}

// List returns the objects and the resourceVersion of the list.
func (r Resource[T]) List(ctx context.Context, o Options) ([]T, string, error) {
	req := r.request(List, "", nil)
	req.Options = o
	res, err := r.c.Do(ctx, req)
	if err != nil {
		return nil, "", err
	}
	out := make([]T, 0, len(res.List.Items))
	for _, it := range res.List.Items {
		obj, ok := it.(T)
		if !ok {
			return nil, "", fmt.Errorf("list %s: got %T, want %T", r.kind.Resource, it, obj)
		}
		out = append(out, obj)
	}
	return out, res.List.ResourceVersion, nil
}

// Watch opens a watch.
func (r Resource[T]) Watch(ctx context.Context, o Options) (watch.Interface, error) {
	req := r.request(Watch, "", nil)
	req.Options = o
	return r.c.Watch(ctx, req)
}

// Create stores a new object and returns it as stored.
func (r Resource[T]) Create(ctx context.Context, obj T, opts ...Option) (T, error) {
	req := r.request(Create, obj.GetName(), opts)
	req.Object = obj
	return r.do(ctx, req)
}

// CreateSub posts obj, of any kind, to a subresource such as binding or
// eviction, and returns the answer as it is.
func (r Resource[T]) CreateSub(ctx context.Context, name, sub string, obj runtime.Object, opts ...Option) (runtime.Object, error) {
	req := r.request(Create, name, opts)
	req.Subresource, req.Object = sub, obj
	res, err := r.c.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	return res.Object, nil
}

// Update replaces the object; its resourceVersion guards against lost
// updates.
func (r Resource[T]) Update(ctx context.Context, obj T, opts ...Option) (T, error) {
	req := r.request(Update, obj.GetName(), opts)
	req.Object = obj
	return r.do(ctx, req)
}

// UpdateStatus replaces the object's status.
func (r Resource[T]) UpdateStatus(ctx context.Context, obj T, opts ...Option) (T, error) {
	return r.Update(ctx, obj, append(opts, Sub("status"))...)
}

// Mutate reads the object, gives fn a deep copy to change, and writes it back
// ("" is the object itself, else a subresource such as status); it starts
// over on conflict. fn returns false to leave the object alone.
func (r Resource[T]) Mutate(ctx context.Context, name, sub string, fn func(T) (bool, error), opts ...Option) (T, error) {
	for {
		cur, err := r.Get(ctx, name)
		if err != nil {
			return cur, err
		}
		obj := cur.DeepCopyObject().(T)
		change, err := fn(obj)
		if err != nil || !change {
			return cur, err
		}
		out, err := r.Update(ctx, obj, append(append([]Option(nil), opts...), Sub(sub))...)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return out, err
		}
	}
}

// Patch applies a patch of the given type.
func (r Resource[T]) Patch(ctx context.Context, name string, pt types.PatchType, data []byte, opts ...Option) (T, error) {
	req := r.request(Patch, name, opts)
	req.PatchType, req.Patch = pt, data
	return r.do(ctx, req)
}

// ApplyStatus applies a part of an object's status (server-side apply) for a
// field manager, whose it becomes; what of the part others own is taken from
// them. status is anything that encodes to the JSON of that part.
func (r Resource[T]) ApplyStatus(ctx context.Context, name, manager string, status any) (T, error) {
	meta := map[string]string{"name": name}
	if r.ns != "" {
		meta["namespace"] = r.ns
	}
	data, err := json.Marshal(map[string]any{
		"apiVersion": r.kind.GVK().GroupVersion().String(), "kind": r.kind.Kind, "metadata": meta, "status": status,
	})
	if err != nil {
		var none T
		return none, fmt.Errorf("encode the status of %s %s: %w", r.kind.Kind, name, err)
	}
	return r.Patch(ctx, name, types.ApplyPatchType, data, WithOptions(Options{FieldManager: manager, Force: true}), Sub("status"))
}

// Delete begins the deletion of an object. A nil error means that the server
// has accepted it; finalizers and grace periods may keep the object for now.
func (r Resource[T]) Delete(ctx context.Context, name string, o Options) error {
	req := r.request(Delete, name, nil)
	req.Options = o
	_, err := r.c.Do(ctx, req)
	return err
}

// DeleteCollection deletes what the options select.
func (r Resource[T]) DeleteCollection(ctx context.Context, o Options) error {
	req := r.request(DeleteCollection, "", nil)
	req.Options = o
	_, err := r.c.Do(ctx, req)
	return err
}
