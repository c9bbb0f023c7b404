package disruption

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// scales finds what the owners of pods ask for: those of the built-in kinds
// from the informers, of any other through its scale subresource.
type scales struct {
	env         controllers.Env
	find        controllers.Discovery
	deployments client.Informer[*appsv1.Deployment]
	sets        client.Informer[*appsv1.ReplicaSet]
	stateful    client.Informer[*appsv1.StatefulSet]
	replication client.Informer[*corev1.ReplicationController]
}

func newScales(env controllers.Env, find controllers.Discovery) scales {
	return scales{
		env: env, find: find,
		deployments: client.InformerFor(env.Informers, client.Deployments),
		sets:        client.InformerFor(env.Informers, client.ReplicaSets),
		stateful:    client.InformerFor(env.Informers, client.StatefulSets),
		replication: client.InformerFor(env.Informers, client.ReplicationControllers),
	}
}

// onChange calls wake with the namespace whenever an owner's size changes.
func (s *scales) onChange(wake func(namespace string)) error {
	if _, err := s.deployments.OnChange(func(d, old *appsv1.Deployment) {
		if d != nil && (old == nil || size(d.Spec.Replicas) != size(old.Spec.Replicas)) {
			wake(d.Namespace)
		}
	}); err != nil {
		return err
	}
	if _, err := s.sets.OnChange(func(d, old *appsv1.ReplicaSet) {
		if d != nil && (old == nil || size(d.Spec.Replicas) != size(old.Spec.Replicas)) {
			wake(d.Namespace)
		}
	}); err != nil {
		return err
	}
	if _, err := s.stateful.OnChange(func(d, old *appsv1.StatefulSet) {
		if d != nil && (old == nil || size(d.Spec.Replicas) != size(old.Spec.Replicas)) {
			wake(d.Namespace)
		}
	}); err != nil {
		return err
	}
	_, err := s.replication.OnChange(func(d, old *corev1.ReplicationController) {
		if d != nil && (old == nil || size(d.Spec.Replicas) != size(old.Spec.Replicas)) {
			wake(d.Namespace)
		}
	})
	return err
}

func size(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// expected adds up the sizes of the pods' owners, each once. unmanaged says
// that a pod has none.
func (s *scales) expected(ctx context.Context, ns string, ps []*corev1.Pod) (total int32, unmanaged bool, err error) {
	seen := map[types.UID]int32{}
	for _, p := range ps {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			unmanaged = true
			continue
		}
		if _, ok := seen[ref.UID]; ok {
			continue
		}
		uid, n, found, err := s.of(ctx, ns, ref)
		if err != nil {
			return 0, false, err
		}
		if !found {
			return 0, false, fmt.Errorf("found no controllers for pod %q", p.Name)
		}
		seen[ref.UID] = 0 // another owner's size may stand for this one's
		seen[uid] = n
	}
	for _, n := range seen {
		total += n
	}
	return total, unmanaged, nil
}

// of returns the owner that decides about the size (a ReplicaSet's
// Deployment) and the size.
func (s *scales) of(ctx context.Context, ns string, ref *metav1.OwnerReference) (types.UID, int32, bool, error) {
	switch {
	case controllers.ControlledBy(ref, client.ReplicaSets.GVK()):
		rs, ok := s.sets.Get(ns, ref.Name)
		if !ok || rs.UID != ref.UID {
			return "", 0, false, nil
		}
		if up := metav1.GetControllerOfNoCopy(rs); controllers.ControlledBy(up, client.Deployments.GVK()) {
			if d, ok := s.deployments.Get(ns, up.Name); ok && d.UID == up.UID {
				return d.UID, size(d.Spec.Replicas), true, nil
			}
			return "", 0, false, nil
		}
		return rs.UID, size(rs.Spec.Replicas), true, nil
	case controllers.ControlledBy(ref, client.StatefulSets.GVK()):
		if o, ok := s.stateful.Get(ns, ref.Name); ok && o.UID == ref.UID {
			return o.UID, size(o.Spec.Replicas), true, nil
		}
		return "", 0, false, nil
	case controllers.ControlledBy(ref, client.ReplicationControllers.GVK()):
		if o, ok := s.replication.Get(ns, ref.Name); ok && o.UID == ref.UID {
			return o.UID, size(o.Spec.Replicas), true, nil
		}
		return "", 0, false, nil
	}
	return s.remote(ctx, ns, ref)
}

func (s *scales) remote(ctx context.Context, ns string, ref *metav1.OwnerReference) (types.UID, int32, bool, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || s.find == nil {
		return "", 0, false, err
	}
	all, findErr := s.find(ctx)
	for _, r := range all {
		if r.Group != gv.Group || r.Kind != ref.Kind {
			continue
		}
		res, err := s.env.Client.Do(ctx, &client.Request{Verb: client.Get, Resource: r.GroupVersionResource, Namespace: ns, Name: ref.Name, Subresource: "scale"})
		if apierrors.IsNotFound(err) {
			return "", 0, false, fmt.Errorf("%s does not implement the scale subresource", r.GroupResource())
		}
		if err != nil {
			return "", 0, false, err
		}
		scale, ok := res.Object.(*autoscalingv1.Scale)
		if !ok || scale.UID != ref.UID {
			return "", 0, false, nil
		}
		return scale.UID, scale.Spec.Replicas, true, nil
	}
	return "", 0, false, findErr
}
