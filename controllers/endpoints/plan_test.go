package endpoints

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coxswain/cox/controllers/pods"
)

func service(ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}}
	s.Spec = corev1.ServiceSpec{ClusterIP: "10.43.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: ports}
	return s
}

func pod(i int, ready bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint(i))}}
	p.Status.PodIP = fmt.Sprintf("10.42.%d.%d", i/250, i%250+1)
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(8000 + i%2), Protocol: corev1.ProtocolTCP}}}}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(time.Unix(1e9, 0))})
	return p
}

func show(e *corev1.Endpoints) string {
	var out []string
	for _, s := range e.Subsets {
		var line []string
		for _, p := range s.Ports {
			line = append(line, fmt.Sprintf("%s:%d", p.Name, p.Port))
		}
		for _, a := range s.Addresses {
			line = append(line, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			line = append(line, "("+a.IP+")")
		}
		out = append(out, strings.Join(line, " "))
	}
	return strings.Join(out, "; ")
}

func TestMake(t *testing.T) {
	named := corev1.ServicePort{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")}
	fixed := corev1.ServicePort{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(80)}
	ending := pod(2, true)
	ending.DeletionTimestamp = &metav1.Time{}
	for _, tc := range []struct {
		name string
		s    *corev1.Service
		pods []*corev1.Pod
		want string
	}{
		{"none", service(fixed), nil, ""},
		{"ready and not", service(fixed), []*corev1.Pod{pod(3, false), pod(1, true), pod(0, true)}, "web:80 10.42.0.1 10.42.0.2 (10.42.0.4)"},
		{"a named port of two numbers", service(named), []*corev1.Pod{pod(0, true), pod(1, true), pod(2, true)}, "web:8000 10.42.0.1 10.42.0.3; web:8001 10.42.0.2"},
		{"a pod that ends", service(fixed), []*corev1.Pod{pod(0, true), ending}, "web:80 10.42.0.1"},
		{"no ports", service(), []*corev1.Pod{pod(0, true)}, "10.42.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := Make(tc.s, tc.pods, nil)
			if got := show(e); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if again := Make(tc.s, tc.pods, e); again != nil {
				t.Errorf("a second look finds work: %+v", again)
			}
		})
	}
	var ps []*corev1.Pod
	for i := range 1200 {
		ps = append(ps, pod(2*i, i%2 == 0))
	}
	e := Make(service(fixed), ps, nil)
	if len(e.Subsets[0].Addresses) != 600 || len(e.Subsets[0].NotReadyAddresses) != 400 || e.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("%d and %d, %v", len(e.Subsets[0].Addresses), len(e.Subsets[0].NotReadyAddresses), e.Annotations)
	}
}
