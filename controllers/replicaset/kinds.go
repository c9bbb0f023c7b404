package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// New makes the controller of ReplicaSets.
func New(env controllers.Env) (*Controller, error) {
	c, err := newController(env, "replicaset")
	if err != nil {
		return nil, err
	}
	sets := client.InformerFor(env.Informers, client.ReplicaSets)
	if err := sets.AddIndex(controllers.OwnerIndex, controllers.ByOwner[*appsv1.ReplicaSet]); err != nil {
		return nil, err
	}
	c.kind = setKind{
		gvk:      client.ReplicaSets.GVK(),
		view:     sets.GetKey,
		views:    func(ns string) []*appsv1.ReplicaSet { return sets.List(ns, nil) },
		caughtUp: sets.CaughtUp,
		family: func(set *appsv1.ReplicaSet) []string {
			uids := []string{string(set.UID)}
			if ref := metav1.GetControllerOfNoCopy(set); ref != nil {
				for _, s := range sets.ByIndex(controllers.OwnerIndex, controllers.OwnedBy(string(ref.UID))) {
					if s.UID != set.UID {
						uids = append(uids, string(s.UID))
					}
				}
			}
			return uids
		},
		live: func(ctx context.Context, ns, name string) (*appsv1.ReplicaSet, error) {
			return client.ReplicaSets.In(env.Client, ns).Get(ctx, name)
		},
		putStatus: func(ctx context.Context, set *appsv1.ReplicaSet, st appsv1.ReplicaSetStatus, fresh bool) (client.Object, error) {
			res, obj := client.ReplicaSets.In(env.Client, set.Namespace), set
			if fresh {
				var err error
				if obj, err = res.Get(ctx, set.Name); err != nil {
					return nil, err
				}
				if obj.UID != set.UID {
					return nil, errReplaced(client.ReplicaSets.Resource, set)
				}
			}
			obj = obj.DeepCopy()
			obj.Status = st
			return res.UpdateStatus(ctx, obj)
		},
	}
	if _, err := sets.OnChange(func(set, old *appsv1.ReplicaSet) { c.wakeSet(set, old) }); err != nil {
		return nil, err
	}
	_, err = c.pods.OnChange(c.podChanged)
	return c, err
}

// NewReplication makes the controller of ReplicationControllers, which are
// the same machine with another face.
func NewReplication(env controllers.Env) (*Controller, error) {
	c, err := newController(env, "replicationmanager")
	if err != nil {
		return nil, err
	}
	sets := client.InformerFor(env.Informers, client.ReplicationControllers)
	c.kind = setKind{
		gvk:           client.ReplicationControllers.GVK(),
		noTerminating: true,
		caughtUp:      sets.CaughtUp,
		view: func(key string) (*appsv1.ReplicaSet, bool) {
			rc, ok := sets.GetKey(key)
			if !ok {
				return nil, false
			}
			return asSet(rc), true
		},
		views: func(ns string) []*appsv1.ReplicaSet {
			var out []*appsv1.ReplicaSet
			for _, rc := range sets.List(ns, nil) {
				out = append(out, asSet(rc))
			}
			return out
		},
		family: func(set *appsv1.ReplicaSet) []string { return []string{string(set.UID)} },
		live: func(ctx context.Context, ns, name string) (*appsv1.ReplicaSet, error) {
			rc, err := client.ReplicationControllers.In(env.Client, ns).Get(ctx, name)
			if err != nil {
				return nil, err
			}
			return asSet(rc), nil
		},
		putStatus: func(ctx context.Context, set *appsv1.ReplicaSet, st appsv1.ReplicaSetStatus, fresh bool) (client.Object, error) {
			res := client.ReplicationControllers.In(env.Client, set.Namespace)
			rc, ok := sets.Get(set.Namespace, set.Name)
			if fresh || !ok {
				var err error
				if rc, err = res.Get(ctx, set.Name); err != nil {
					return nil, err
				}
			}
			if rc.UID != set.UID {
				return nil, errReplaced(client.ReplicationControllers.Resource, set)
			}
			rc = rc.DeepCopy()
			rc.Status = replicationStatus(st)
			return res.UpdateStatus(ctx, rc)
		},
	}
	if _, err := sets.OnChange(func(rc, old *corev1.ReplicationController) {
		if rc == nil {
			c.loop.AddObject(old)
			return
		}
		c.loop.AddObject(rc)
	}); err != nil {
		return nil, err
	}
	_, err = c.pods.OnChange(c.podChanged)
	return c, err
}

func (c *Controller) wakeSet(set, old *appsv1.ReplicaSet) {
	if set == nil {
		set = old
	}
	c.loop.AddObject(set)
}

// errReplaced says that the set is gone and another has its name.
func errReplaced(resource string, set *appsv1.ReplicaSet) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: resource}, set.Name)
}

// asSet dresses a ReplicationController as a ReplicaSet. The result shares
// with rc.
func asSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{ObjectMeta: rc.ObjectMeta}
	set.Spec = appsv1.ReplicaSetSpec{
		Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
		Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
	}
	if rc.Spec.Template != nil {
		set.Spec.Template = *rc.Spec.Template
	}
	set.Status = appsv1.ReplicaSetStatus{
		Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
		ReadyReplicas: rc.Status.ReadyReplicas, AvailableReplicas: rc.Status.AvailableReplicas,
		ObservedGeneration: rc.Status.ObservedGeneration,
	}
	for _, cond := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(cond.Type), Status: cond.Status,
			LastTransitionTime: cond.LastTransitionTime, Reason: cond.Reason, Message: cond.Message,
		})
	}
	return set
}

func replicationStatus(st appsv1.ReplicaSetStatus) corev1.ReplicationControllerStatus {
	out := corev1.ReplicationControllerStatus{
		Replicas: st.Replicas, FullyLabeledReplicas: st.FullyLabeledReplicas,
		ReadyReplicas: st.ReadyReplicas, AvailableReplicas: st.AvailableReplicas,
		ObservedGeneration: st.ObservedGeneration,
	}
	for _, cond := range st.Conditions {
		out.Conditions = append(out.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(cond.Type), Status: cond.Status,
			LastTransitionTime: cond.LastTransitionTime, Reason: cond.Reason, Message: cond.Message,
		})
	}
	return out
}
