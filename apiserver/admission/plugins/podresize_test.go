package plugins

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

// TestPodResize has 1.36's answers to the same resizes.
func TestPodResize(t *testing.T) {
	b := newBench()
	for name, n := range map[string]corev1.Node{
		"plain": {}, "windows": {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"kubernetes.io/os": "windows"}}},
		"init": {Status: corev1.NodeStatus{DeclaredFeatures: []string{"InPlacePodVerticalScalingInitContainers"}}},
	} {
		n.Name = name
		n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi")}
		doortest.Put(&b.door, client.Nodes, &n)
	}
	asks := func(cpu, memory string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}}
	}
	resize := func(node string, change func(*corev1.Pod)) *admission.Attributes {
		old := newTestPod(func(p *corev1.Pod) {
			p.Generation, p.Spec.NodeName = 1, node
			p.Spec.Containers[0].Resources = asks("1", "1Mi")
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: asks("1", "1Mi")}}
		})
		pod := old.DeepCopy()
		if change != nil {
			pod.Generation++
			change(pod)
		}
		a := write(admission.Update, client.Pods, pod, old)
		a.Subresource = "resize"
		return a
	}
	to := func(cpu, memory string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Resources = asks(cpu, memory) }
	}
	initTo := func(cpu string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.InitContainers[0].Resources = asks(cpu, "1Mi") }
	}
	podTo := func(cpu string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Resources = new(asks(cpu, "1Mi")) }
	}
	for name, tc := range map[string]struct {
		a    *admission.Attributes
		want string
	}{
		"fits":                  {resize("plain", to("1500m", "1Mi")), ""},
		"nothing":               {resize("gone", nil), ""},
		"nowhere yet":           {resize("", to("5", "5Gi")), ""},
		"too much":              {resize("plain", to("3", "1Mi")), "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000"},
		"too much of all":       {resize("plain", to("3", "2Gi")), "cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"},
		"no node":               {resize("gone", to("2", "1Mi")), `node "gone" not found`},
		"windows":               {resize("windows", to("500m", "1Mi")), `pod resize is only supported on linux nodes, node "windows" is "windows"`},
		"undeclared":            {resize("plain", initTo("500m")), `pod update requires features InPlacePodVerticalScalingInitContainers which are not available on node "plain"`},
		"declared":              {resize("init", initTo("500m")), ""},
		"declared, too much":    {resize("init", initTo("3")), "cpu, requested: 3000, allocatable: 2000"},
		"pod's own, undeclared": {resize("init", podTo("1500m")), `pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node "init"`},
		"undeclared of no node": {resize("gone", initTo("500m")), `node "gone" not found`},
	} {
		err := b.run(tc.a, "NodeDeclaredFeatureValidator", "PodResizeValidator")
		check(t, name, err, tc.want)
		for text, cause := range map[string]metav1.CauseType{"allocatable resources": "NodeCapacity", "linux nodes": "UnsupportedPlatform"} {
			if strings.Contains(tc.want, text) && !apierrors.HasStatusCause(err, cause) {
				t.Errorf("%s: no cause %s", name, cause)
			}
		}
	}
}
