package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// The plugins of this file are off unless they are asked for.

var allOps = ops(admission.Create, admission.Update, admission.Delete, admission.Connect)

// alwaysAdmit lets everything through, as no plugin does too.
func alwaysAdmit() *plugin { return &plugin{ops: allOps} }

// alwaysDeny refuses every write.
func alwaysDeny() *plugin {
	deny := func(_ context.Context, a *admission.Attributes) error {
		return forbid(a, "admission control is denying all modifications")
	}
	return &plugin{ops: allOps, admit: deny, validate: deny}
}

// eachContainer calls f for every container of a pod with its place.
func eachContainer(spec *corev1.PodSpec, f func(image string, policy *corev1.PullPolicy, at *field.Path)) {
	at := field.NewPath("spec")
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		f(c.Image, &c.ImagePullPolicy, at.Child("initContainers").Index(i))
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		f(c.Image, &c.ImagePullPolicy, at.Child("containers").Index(i))
	}
	for i := range spec.EphemeralContainers {
		c := &spec.EphemeralContainers[i]
		f(c.Image, &c.ImagePullPolicy, at.Child("ephemeralContainers").Index(i))
	}
}

// alwaysPullImages makes every container ask the registry for its image, so
// that nobody runs an image that another has pulled with rights of his own.
func alwaysPullImages() *plugin {
	// judged says that the pod is new or has an image that it had not.
	judged := func(a *admission.Attributes) (*corev1.Pod, bool) {
		pod, ok := a.Object.(*corev1.Pod)
		if !ok || a.Resource.GroupResource() != podsResource || a.Subresource != "" && a.Subresource != "ephemeralcontainers" {
			return nil, false
		}
		if old, ok := a.Old.(*corev1.Pod); ok && old != nil {
			had := sets.New[string]()
			eachContainer(&old.Spec, func(image string, _ *corev1.PullPolicy, _ *field.Path) { had.Insert(image) })
			fresh := false
			eachContainer(&pod.Spec, func(image string, _ *corev1.PullPolicy, _ *field.Path) { fresh = fresh || !had.Has(image) })
			return pod, fresh
		}
		return pod, true
	}
	return &plugin{
		ops: ops(admission.Create, admission.Update),
		admit: func(_ context.Context, a *admission.Attributes) error {
			pod, ok := judged(a)
			if !ok {
				return nil
			}
			eachContainer(&pod.Spec, func(_ string, p *corev1.PullPolicy, _ *field.Path) { *p = corev1.PullAlways })
			for i := range pod.Spec.Volumes {
				if v := pod.Spec.Volumes[i].Image; v != nil {
					v.PullPolicy = corev1.PullAlways
				}
			}
			return nil
		},
		validate: func(_ context.Context, a *admission.Attributes) error {
			pod, ok := judged(a)
			if !ok {
				return nil
			}
			var errs []error
			check := func(p corev1.PullPolicy, at *field.Path) {
				if p != corev1.PullAlways {
					errs = append(errs, forbidden(a, field.NotSupported(at, p, []string{string(corev1.PullAlways)})))
				}
			}
			eachContainer(&pod.Spec, func(_ string, p *corev1.PullPolicy, at *field.Path) { check(*p, at.Child("imagePullPolicy")) })
			for i := range pod.Spec.Volumes {
				if v := pod.Spec.Volumes[i].Image; v != nil {
					check(v.PullPolicy, field.NewPath("spec", "volumes").Index(i).Child("image", "pullPolicy"))
				}
			}
			if len(errs) > 0 {
				return errs[0]
			}
			return nil
		},
	}
}

// denyServiceExternalIPs refuses addresses that Services attract without
// anybody checking whose they are (CVE-2020-8554).
func denyServiceExternalIPs() *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), validate: func(_ context.Context, a *admission.Attributes) error {
		svc, ok := a.Object.(*corev1.Service)
		if !ok || a.Subresource != "" {
			return nil
		}
		var had []string
		if old, ok := a.Old.(*corev1.Service); ok && old != nil {
			had = old.Spec.ExternalIPs
		}
		for _, ip := range svc.Spec.ExternalIPs {
			if !slices.Contains(had, ip) {
				return forbid(a, "Use of external IPs is denied by admission control")
			}
		}
		return nil
	}}
}

// limitPodHardAntiAffinityTopology lets pods keep others off their node, but
// off nothing larger.
func limitPodHardAntiAffinityTopology() *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), validate: func(_ context.Context, a *admission.Attributes) error {
		pod, ok := newPod(a)
		if !ok || pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
			return nil
		}
		for _, t := range pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			if t.TopologyKey != corev1.LabelHostname {
				return forbid(a, fmt.Sprintf("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey %v but only key %v is allowed", t.TopologyKey, corev1.LabelHostname))
			}
		}
		return nil
	}}
}

// extendedResourceToleration lets pods that ask for a device onto the nodes
// that are kept for it.
func extendedResourceToleration() *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), admit: func(_ context.Context, a *admission.Attributes) error {
		pod, ok := newPod(a)
		if !ok {
			return nil
		}
		asked := sets.New[string]()
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				for name := range list[i].Resources.Requests {
					if isExtended(name) {
						asked.Insert(string(name))
					}
				}
			}
		}
		for _, name := range sets.List(asked) {
			t := corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
			if !slices.ContainsFunc(pod.Spec.Tolerations, func(have corev1.Toleration) bool { return have.MatchToleration(&t) }) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
			}
		}
		return nil
	}}
}

// isExtended says that a resource is one that a node's devices provide.
func isExtended(name corev1.ResourceName) bool {
	s := string(name)
	return strings.Contains(s, "/") && !strings.Contains(s, corev1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix)
}

// inNamespace is the namespace of a write within one; false for namespaces
// themselves.
func inNamespace(a *admission.Attributes) (string, bool) {
	if a.Namespace == "" || a.Resource.GroupResource() == namespacesResource || a.Resource.Group == "authorization.k8s.io" {
		return "", false
	}
	return a.Namespace, true
}

// namespaceAutoProvision makes a namespace when something is made in it.
func namespaceAutoProvision(d deps) *plugin {
	return &plugin{ops: ops(admission.Create), admit: func(ctx context.Context, a *admission.Attributes) error {
		name, ok := inNamespace(a)
		if !ok || a.DryRun {
			return nil
		}
		namespaces := client.Namespaces.In(d.door, "")
		if _, err := get(ctx, namespaces, name); !apierrors.IsNotFound(err) {
			return err
		}
		_, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return forbidden(a, err)
		}
		return nil
	}}
}

// namespaceExists refuses writes in a namespace that is not there.
func namespaceExists(d deps) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update, admission.Delete), validate: func(ctx context.Context, a *admission.Attributes) error {
		name, ok := inNamespace(a)
		if !ok {
			return nil
		}
		_, err := get(ctx, client.Namespaces.In(d.door, ""), name)
		var status *apierrors.StatusError
		if err != nil && !errors.As(err, &status) {
			return apierrors.NewInternalError(err)
		}
		return err
	}}
}
