package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
)

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

// ordinalOf is the pod's number in the set, -1 if its name is not one of the
// set's.
func ordinalOf(set *appsv1.StatefulSet, name string) int {
	digits, ok := strings.CutPrefix(name, set.Name+"-")
	if !ok {
		return -1
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || strconv.FormatInt(n, 10) != digits || n < 0 {
		return -1
	}
	return int(n)
}

func start(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

func replicas(set *appsv1.StatefulSet) int {
	if set.Spec.Replicas == nil {
		return 1
	}
	return int(*set.Spec.Replicas)
}

func revisionOf(p *corev1.Pod) string { return p.Labels[appsv1.StatefulSetRevisionLabel] }

func claimName(set *appsv1.StatefulSet, template string, ordinal int) string {
	return template + "-" + podName(set, ordinal)
}

// claims are the claims of an ordinal, in the order of their templates. They
// carry the set's selector labels, by which users find them.
func claims(set *appsv1.StatefulSet, ordinal int) []*corev1.PersistentVolumeClaim {
	var out []*corev1.PersistentVolumeClaim
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		c := &corev1.PersistentVolumeClaim{Spec: *t.Spec.DeepCopy()}
		c.Namespace, c.Name = set.Namespace, claimName(set, t.Name, ordinal)
		c.Annotations, c.Finalizers = maps.Clone(t.Annotations), slices.Clone(t.Finalizers)
		c.Labels = maps.Clone(t.Labels)
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		if set.Spec.Selector != nil {
			maps.Copy(c.Labels, set.Spec.Selector.MatchLabels)
		}
		out = append(out, c)
	}
	return out
}

// newPod makes the pod of an ordinal from a revision's template.
func newPod(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	p := pods.FromTemplate(template, set.Namespace, set.Name, metav1.NewControllerRef(set, client.StatefulSets.GVK()))
	p.GenerateName, p.Name = "", podName(set, ordinal)
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, set.Spec.ServiceName
	identify(p, ordinal)
	p.Labels[appsv1.StatefulSetRevisionLabel] = revision
	mountClaims(set, p, ordinal)
	return p
}

// identify sets the labels of a pod's identity, and says whether one was
// missing.
func identify(p *corev1.Pod, ordinal int) bool {
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	changed := false
	for k, v := range map[string]string{
		appsv1.StatefulSetPodNameLabel: p.Name, appsv1.PodIndexLabel: strconv.Itoa(ordinal),
	} {
		if p.Labels[k] != v {
			p.Labels[k], changed = v, true
		}
	}
	return changed
}

// mountClaims gives the pod the volumes of its claims, in place of those that
// the template has under the same names.
func mountClaims(set *appsv1.StatefulSet, p *corev1.Pod, ordinal int) {
	templates := set.Spec.VolumeClaimTemplates
	var volumes []corev1.Volume
	for i := range templates {
		volumes = append(volumes, corev1.Volume{Name: templates[i].Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, templates[i].Name, ordinal)},
		}})
	}
	for _, v := range p.Spec.Volumes {
		if !slices.ContainsFunc(templates, func(t corev1.PersistentVolumeClaim) bool { return t.Name == v.Name }) {
			volumes = append(volumes, v)
		}
	}
	p.Spec.Volumes = volumes
}

// retention is who shall own a claim, so that the garbage collector deletes it
// with its owner (KEP-1847): the set, the pod that a scale-down removes, or no
// one.
type retention int

const (
	keepAlways retention = iota
	withSet
	withPod
)

func retentionOf(set *appsv1.StatefulSet, condemned bool) retention {
	p := set.Spec.PersistentVolumeClaimRetentionPolicy
	switch {
	case p == nil:
		return keepAlways
	case condemned && p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		return withPod
	case p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		return withSet
	}
	return keepAlways
}

// ownersOf returns the owner references that a claim should have and whether
// they differ from those it has. References of others stay, and a claim that
// another controller manages is left alone; the owner's own reference that has
// lost its controller flag gets it back. pod is nil when there is none.
func ownersOf(set *appsv1.StatefulSet, c *corev1.PersistentVolumeClaim, podName string, pod *corev1.Pod, r retention) ([]metav1.OwnerReference, bool) {
	var want *metav1.OwnerReference
	switch {
	case r == withSet:
		want = metav1.NewControllerRef(set, client.StatefulSets.GVK())
	case r == withPod && pod != nil:
		want = metav1.NewControllerRef(pod, client.Pods.GVK())
	case r == withPod:
		return nil, false
	}
	found := false
	var out []metav1.OwnerReference
	for _, ref := range c.OwnerReferences {
		ours := ref.Kind == client.StatefulSets.Kind && ref.Name == set.Name || ref.Kind == client.Pods.Kind && ref.Name == podName
		switch {
		case want != nil && ref.UID == want.UID && ref.Controller != nil && *ref.Controller:
			found = true
		case ours:
			continue
		case ref.Controller != nil && *ref.Controller:
			return nil, false
		}
		out = append(out, ref)
	}
	if want != nil && !found {
		out = append(out, *want)
	}
	return out, len(out) != len(c.OwnerReferences) || want != nil && !found
}

// stale says that a claim is on its way out with an earlier pod of the name:
// a new pod must not begin to use it.
func stale(c *corev1.PersistentVolumeClaim, podName string, pod *corev1.Pod) bool {
	if c.DeletionTimestamp != nil {
		return true
	}
	return slices.ContainsFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool {
		return ref.Kind == client.Pods.Kind && ref.Name == podName && (pod == nil || ref.UID != pod.UID)
	})
}

// describe names a claim with its pod and set, for messages.
func describe(set *appsv1.StatefulSet, c *corev1.PersistentVolumeClaim, pod string) string {
	return fmt.Sprintf("Claim %s Pod %s in StatefulSet %s", c.Name, pod, set.Name)
}
