package node

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/client"
)

// podIndex files the pods, which it shares, under their node.
type podIndex struct {
	synced chan struct{}
	once   sync.Once

	mu     sync.RWMutex
	byNode map[string]map[podName]*corev1.Pod
	where  map[podName]string
}

type podName struct{ ns, name string }

func newPodIndex() *podIndex {
	return &podIndex{synced: make(chan struct{}), byNode: map[string]map[podName]*corev1.Pod{}, where: map[podName]string{}}
}

func (x *podIndex) run(ctx context.Context, door client.Interface) {
	lw := client.ListWatch(door, client.Pods, client.Scope{})
	cache.NewNamedReflector("node-authorizer-pods", lw, &corev1.Pod{}, x, 0).RunWithContext(ctx)
}

// Add, Update, Delete, Replace and Resync are the reflector's.

func (x *podIndex) Add(obj any) error { return x.Update(obj) }

func (x *podIndex) Update(obj any) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.put(obj)
	return nil
}

func (x *podIndex) put(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	key := podName{pod.Namespace, pod.Name}
	x.drop(key)
	if pod.Spec.NodeName == "" {
		return
	}
	x.where[key] = pod.Spec.NodeName
	// A pod that has ended needs nothing any more but to be seen: upstream's
	// kubelet looks at it before it takes it away.
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return
	}
	pods := x.byNode[pod.Spec.NodeName]
	if pods == nil {
		pods = map[podName]*corev1.Pod{}
		x.byNode[pod.Spec.NodeName] = pods
	}
	pods[key] = pod
}

func (x *podIndex) drop(key podName) {
	node, ok := x.where[key]
	if !ok {
		return
	}
	delete(x.where, key)
	delete(x.byNode[node], key)
	if len(x.byNode[node]) == 0 {
		delete(x.byNode, node)
	}
}

func (x *podIndex) Delete(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(podName{pod.Namespace, pod.Name})
	return nil
}

func (x *podIndex) Replace(list []any, _ string) error {
	x.mu.Lock()
	clear(x.byNode)
	clear(x.where)
	for _, o := range list {
		x.put(o)
	}
	x.mu.Unlock()
	x.once.Do(func() { close(x.synced) })
	return nil
}

func (x *podIndex) Resync() error { return nil }

// on says that the pod is on the node.
func (x *podIndex) on(ctx context.Context, node string, key podName) (bool, error) {
	if err := x.wait(ctx); err != nil {
		return false, err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	return node != "" && x.where[key] == node, nil
}

// wait waits until the pods are read.
func (x *podIndex) wait(ctx context.Context) error {
	select {
	case <-x.synced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the pods of the nodes are not read yet: %w", ctx.Err())
	}
}

// any says that f holds for a pod of the node that has not ended, in the namespace ("" for all).
// f runs without the lock.
func (x *podIndex) any(ctx context.Context, node, ns string, f func(*corev1.Pod) (bool, error)) (bool, error) {
	if err := x.wait(ctx); err != nil {
		return false, err
	}
	x.mu.RLock()
	pods := make([]*corev1.Pod, 0, len(x.byNode[node]))
	for key, p := range x.byNode[node] {
		if ns == "" || key.ns == ns {
			pods = append(pods, p)
		}
	}
	x.mu.RUnlock()
	for _, p := range pods {
		if ok, err := f(p); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// refers says that a pod of the node needs the object.
func (a *Authorizer) refers(ctx context.Context, node, resource, ns, name string) (bool, error) {
	if test := podTest(resource); test != nil {
		found, err := a.pods.any(ctx, node, ns, func(p *corev1.Pod) (bool, error) { return test(p, name), nil })
		if found || err != nil || resource != "secrets" {
			return found, err
		}
	}
	switch resource {
	case "pods":
		return a.pods.on(ctx, node, podName{ns, name})
	case "secrets":
		// A volume's secret may lie in any namespace, such as its driver's.
		return a.pods.any(ctx, node, "", func(p *corev1.Pod) (bool, error) { return a.volumeSecret(ctx, p, ns, name) })
	case "persistentvolumes":
		return a.volume(ctx, node, name)
	case "volumeattachments":
		va, err := client.VolumeAttachments.In(a.door, "").Get(ctx, name)
		return err == nil && va.Spec.NodeName == node, ignoreNotFound(err)
	case "podcertificaterequests":
		r, err := client.PodCertificateRequests.In(a.door, ns).Get(ctx, name)
		return err == nil && string(r.Spec.NodeName) == node, ignoreNotFound(err)
	case "resourceslices":
		res, err := a.door.Do(ctx, &client.Request{Verb: client.Get, Name: name,
			Resource: schema.GroupVersionResource{Group: "resource.k8s.io", Version: "v1", Resource: "resourceslices"}})
		if err != nil {
			return false, ignoreNotFound(err)
		}
		s, ok := res.Object.(*resourcev1.ResourceSlice)
		return ok && s.Spec.NodeName != nil && *s.Spec.NodeName == node, nil
	}
	return false, nil
}

// podTest returns the test by which a pod alone is seen to need an object of
// the resource; nil when there is none.
func podTest(resource string) func(*corev1.Pod, string) bool {
	switch resource {
	case "secrets":
		return usesSecret
	case "configmaps":
		return usesConfigMap
	case "persistentvolumeclaims":
		return usesClaim
	case "serviceaccounts":
		return func(p *corev1.Pod, name string) bool {
			_, static := p.Annotations[corev1.MirrorPodAnnotationKey]
			return !static && p.Spec.ServiceAccountName == name
		}
	case "resourceclaims":
		return usesResourceClaim
	}
	return nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// eachContainer calls f with the environment of every container.
func eachContainer(p *corev1.Pod, f func([]corev1.EnvVar, []corev1.EnvFromSource) bool) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if f(list[i].Env, list[i].EnvFrom) {
				return true
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if c := &p.Spec.EphemeralContainers[i]; f(c.Env, c.EnvFrom) {
			return true
		}
	}
	return false
}

func usesSecret(p *corev1.Pod, name string) bool {
	if _, static := p.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return false // a mirror of a static pod gives its node no rights
	}
	return RefersToSecret(p, func(other string) bool { return other == name })
}

// RefersToSecret says whether the pod names a Secret, anywhere, that is one of
// those meant.
func RefersToSecret(p *corev1.Pod, meant func(name string) bool) bool {
	for _, s := range p.Spec.ImagePullSecrets {
		if meant(s.Name) {
			return true
		}
	}
	for i := range p.Spec.Volumes {
		if volumeUsesSecret(&p.Spec.Volumes[i].VolumeSource, meant) {
			return true
		}
	}
	return eachContainer(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if v := env[i].ValueFrom; v != nil && v.SecretKeyRef != nil && meant(v.SecretKeyRef.Name) {
				return true
			}
		}
		for i := range from {
			if from[i].SecretRef != nil && meant(from[i].SecretRef.Name) {
				return true
			}
		}
		return false
	})
}

func volumeUsesSecret(v *corev1.VolumeSource, meant func(string) bool) bool {
	local := func(r *corev1.LocalObjectReference) bool { return r != nil && meant(r.Name) }
	switch {
	case v.Secret != nil:
		return meant(v.Secret.SecretName)
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			if s := v.Projected.Sources[i].Secret; s != nil && meant(s.Name) {
				return true
			}
		}
	case v.AzureFile != nil:
		return meant(v.AzureFile.SecretName)
	case v.CephFS != nil:
		return local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		return local(v.Cinder.SecretRef)
	case v.CSI != nil:
		return local(v.CSI.NodePublishSecretRef)
	case v.FlexVolume != nil:
		return local(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		return local(v.ISCSI.SecretRef)
	case v.RBD != nil:
		return local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		return local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		return local(v.StorageOS.SecretRef)
	}
	return false
}

func usesConfigMap(p *corev1.Pod, name string) bool {
	if _, static := p.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return false
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.ConfigMap != nil && v.ConfigMap.Name == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if c := v.Projected.Sources[j].ConfigMap; c != nil && c.Name == name {
				return true
			}
		}
	}
	return eachContainer(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if v := env[i].ValueFrom; v != nil && v.ConfigMapKeyRef != nil && v.ConfigMapKeyRef.Name == name {
				return true
			}
		}
		for i := range from {
			if from[i].ConfigMapRef != nil && from[i].ConfigMapRef.Name == name {
				return true
			}
		}
		return false
	})
}

func usesClaim(p *corev1.Pod, name string) bool {
	if _, static := p.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return false
	}
	for i := range p.Spec.Volumes {
		if podspec.ClaimName(p, &p.Spec.Volumes[i]) == name {
			return true
		}
	}
	return false
}

func usesResourceClaim(p *corev1.Pod, name string) bool {
	for i := range p.Spec.ResourceClaims {
		if c := p.Spec.ResourceClaims[i].ResourceClaimName; c != nil && *c == name {
			return true
		}
	}
	for i := range p.Status.ResourceClaimStatuses {
		if c := p.Status.ResourceClaimStatuses[i].ResourceClaimName; c != nil && *c == name {
			return true
		}
	}
	s := p.Status.ExtendedResourceClaimStatus
	return s != nil && s.ResourceClaimName == name
}

// volume says that a pod of the node uses the claim which the volume is bound
// to.
func (a *Authorizer) volume(ctx context.Context, node, name string) (bool, error) {
	pv, err := client.PersistentVolumes.In(a.door, "").Get(ctx, name)
	if err != nil {
		return false, ignoreNotFound(err)
	}
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return false, nil
	}
	return a.pods.any(ctx, node, ref.Namespace, func(p *corev1.Pod) (bool, error) { return usesClaim(p, ref.Name), nil })
}

// volumeSecret says that a volume behind one of the pod's claims needs the
// secret.
func (a *Authorizer) volumeSecret(ctx context.Context, p *corev1.Pod, ns, name string) (bool, error) {
	for i := range p.Spec.Volumes {
		claim := podspec.ClaimName(p, &p.Spec.Volumes[i])
		if claim == "" {
			continue
		}
		pvc, err := client.PersistentVolumeClaims.In(a.door, p.Namespace).Get(ctx, claim, atHand())
		if err != nil || pvc.Spec.VolumeName == "" {
			if err = ignoreNotFound(err); err != nil {
				return false, err
			}
			continue
		}
		pv, err := client.PersistentVolumes.In(a.door, "").Get(ctx, pvc.Spec.VolumeName, atHand())
		if err != nil {
			if err = ignoreNotFound(err); err != nil {
				return false, err
			}
			continue
		}
		if ref := pv.Spec.ClaimRef; ref != nil && ref.Namespace == p.Namespace && ref.Name == claim && volumeNeeds(pv, ns, name) {
			return true, nil
		}
	}
	return false, nil
}

func atHand() client.Option { return client.WithOptions(client.Options{ResourceVersion: "0"}) }

// volumeNeeds says that a volume, which is bound to a claim, names the secret;
// a name without a namespace is one in the claim's.
func volumeNeeds(pv *corev1.PersistentVolume, ns, name string) bool {
	is := func(namespace, n string) bool {
		return n == name && cmp.Or(namespace, pv.Spec.ClaimRef.Namespace) == ns
	}
	ref := func(r *corev1.SecretReference) bool { return r != nil && is(r.Namespace, r.Name) }
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.CSI != nil: // the controller's secrets are none of a node's business
		return ref(s.CSI.NodePublishSecretRef) || ref(s.CSI.NodeStageSecretRef) || ref(s.CSI.NodeExpandSecretRef)
	case s.AzureFile != nil:
		return is(ptr.Deref(s.AzureFile.SecretNamespace, ""), s.AzureFile.SecretName)
	case s.CephFS != nil:
		return ref(s.CephFS.SecretRef)
	case s.Cinder != nil:
		return ref(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		return ref(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		return ref(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		return ref(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		return ref(s.ISCSI.SecretRef)
	}
	return false
}
