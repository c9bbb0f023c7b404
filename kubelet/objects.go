package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
)

// objectCache holds the objects of one kind that pods of this node refer to,
// each kept fresh by a watch of its own: the Node authorizer allows no wider
// one. It is safe for concurrent use.
type objectCache[T client.Object] struct {
	c       client.Interface
	kind    client.Kind[T]
	log     *slog.Logger
	changed func(namespace, name string)
	ctx     context.Context

	mu sync.Mutex
	by map[objectKey]*objectWatch[T]
}

type objectKey struct{ Namespace, Name string }

type objectWatch[T client.Object] struct {
	refs   int
	cancel context.CancelFunc
	synced chan struct{}

	mu     sync.Mutex
	obj    T
	exists bool
	done   bool // synced is closed
}

func newObjectCache[T client.Object](ctx context.Context, c client.Interface, kind client.Kind[T], log *slog.Logger, changed func(ns, name string)) *objectCache[T] {
	return &objectCache[T]{c: c, kind: kind, log: log, changed: changed, ctx: ctx, by: map[objectKey]*objectWatch[T]{}}
}

// add counts a reference and begins to watch at the first.
func (o *objectCache[T]) add(key objectKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.by[key]; w != nil {
		w.refs++
		return
	}
	ctx, cancel := context.WithCancel(o.ctx)
	w := &objectWatch[T]{refs: 1, cancel: cancel, synced: make(chan struct{})}
	o.by[key] = w
	go o.run(ctx, key, w)
}

// release drops a reference and ends the watch at the last.
func (o *objectCache[T]) release(key objectKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.by[key]; w != nil {
		if w.refs--; w.refs == 0 {
			w.cancel()
			delete(o.by, key)
		}
	}
}

// get returns a watched object, waiting for its first read. An object that
// nothing refers to is read from the API.
func (o *objectCache[T]) get(ctx context.Context, namespace, name string) (T, error) {
	var zero T
	o.mu.Lock()
	w := o.by[objectKey{namespace, name}]
	o.mu.Unlock()
	if w == nil {
		return o.kind.In(o.c, namespace).Get(ctx, name)
	}
	select {
	case <-w.synced:
	case <-ctx.Done():
		return zero, fmt.Errorf("failed to sync %s cache: %w", o.kind.Resource, ctx.Err())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.exists {
		return zero, apierrors.NewNotFound(o.kind.GroupVersionResource.GroupResource(), name)
	}
	return w.obj, nil
}

// peek returns what is known of a watched object; false for nothing, or that
// there is none.
func (o *objectCache[T]) peek(key objectKey) (T, bool) {
	var zero T
	o.mu.Lock()
	w := o.by[key]
	o.mu.Unlock()
	if w == nil {
		return zero, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.obj, w.exists
}

// run keeps one object fresh until ctx ends: read, watch from there, and
// again when the watch ends.
func (o *objectCache[T]) run(ctx context.Context, key objectKey, w *objectWatch[T]) {
	res := o.kind.In(o.c, key.Namespace)
	opts := client.Options{FieldSelector: fields.OneTermEqualSelector("metadata.name", key.Name)}
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		items, rv, err := res.List(ctx, opts)
		if err == nil {
			if len(items) > 0 {
				o.set(key, w, items[0], true)
			} else {
				var zero T
				o.set(key, w, zero, false)
			}
			from := opts
			from.ResourceVersion, from.AllowWatchBookmarks = rv, true
			var wi watch.Interface
			if wi, err = res.Watch(ctx, from); err == nil {
				pause = 100 * time.Millisecond
				o.follow(ctx, key, w, wi)
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		o.log.Debug("cannot watch, will retry", "resource", o.kind.Resource, "namespace", key.Namespace, "name", key.Name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Second)
	}
}

func (o *objectCache[T]) follow(ctx context.Context, key objectKey, w *objectWatch[T], wi watch.Interface) {
	defer wi.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-wi.ResultChan():
			if !ok || e.Type == watch.Error {
				return
			}
			obj, isT := e.Object.(T)
			switch {
			case !isT || e.Type == watch.Bookmark:
			case e.Type == watch.Deleted:
				var zero T
				o.set(key, w, zero, false)
			default:
				o.set(key, w, obj, true)
			}
		}
	}
}

func (o *objectCache[T]) set(key objectKey, w *objectWatch[T], obj T, exists bool) {
	w.mu.Lock()
	same := w.done && w.exists == exists && (!exists || w.obj.GetResourceVersion() == obj.GetResourceVersion())
	w.obj, w.exists = obj, exists
	if !w.done {
		w.done = true
		close(w.synced)
	}
	w.mu.Unlock()
	if !same {
		o.changed(key.Namespace, key.Name)
	}
}

// podObjects answers for one pod's references, within ctx.
type podObjects struct {
	ctx     context.Context
	configs *objectCache[*corev1.ConfigMap]
	secrets *objectCache[*corev1.Secret]
}

func (p podObjects) ConfigMap(namespace, name string) (*corev1.ConfigMap, error) {
	return named(p.configs.get(p.ctx, namespace, name))("configmap", name)
}

func (p podObjects) Secret(namespace, name string) (*corev1.Secret, error) {
	return named(p.secrets.get(p.ctx, namespace, name))("secret", name)
}

// named gives a not-found error the words that a pod's status shows.
func named[T any](obj T, err error) func(kind, name string) (T, error) {
	return func(kind, name string) (T, error) {
		if apierrors.IsNotFound(err) {
			return obj, &missingError{kind, name}
		}
		return obj, err
	}
}

// missingError is a reference to an object that does not exist.
type missingError struct{ kind, name string }

func (e *missingError) Error() string { return fmt.Sprintf("%s %q not found", e.kind, e.name) }

// optionalError forgives a missing object where the reference is optional.
func optionalError(err error, opt *bool) error {
	if _, ok := err.(*missingError); ok && optional(opt) {
		return nil
	}
	return err
}

// references lists the ConfigMaps and Secrets that a pod's containers,
// volumes and pull secrets name, each once.
func references(pod *corev1.Pod) (configs, secrets map[objectKey]bool) {
	configs, secrets = map[objectKey]bool{}, map[objectKey]bool{}
	cm := func(name string) { configs[objectKey{pod.Namespace, name}] = true }
	sec := func(name string) { secrets[objectKey{pod.Namespace, name}] = true }
	for _, r := range pod.Spec.ImagePullSecrets {
		if r.Name != "" {
			sec(r.Name)
		}
	}
	env := func(c *corev1.Container) {
		for _, f := range c.EnvFrom {
			if f.ConfigMapRef != nil {
				cm(f.ConfigMapRef.Name)
			}
			if f.SecretRef != nil {
				sec(f.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom == nil {
				continue
			}
			if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
				cm(r.Name)
			}
			if r := e.ValueFrom.SecretKeyRef; r != nil {
				sec(r.Name)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		env(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		env(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		env(ephemeral(&pod.Spec.EphemeralContainers[i]))
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			cm(v.ConfigMap.Name)
		case v.Secret != nil:
			sec(v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					cm(s.ConfigMap.Name)
				}
				if s.Secret != nil {
					sec(s.Secret.Name)
				}
			}
		}
	}
	return configs, secrets
}
