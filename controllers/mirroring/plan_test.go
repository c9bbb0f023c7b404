package mirroring

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func endpoints(subsets ...corev1.EndpointSubset) *corev1.Endpoints {
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc", UID: "e", Labels: map[string]string{"l": "v"}, Annotations: map[string]string{"a": "v", corev1.EndpointsLastChangeTriggerTime: "t"}},
		Subsets:    subsets,
	}
}

func subset(port int32, ready, not []string) corev1.EndpointSubset {
	s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "p", Port: port, Protocol: corev1.ProtocolTCP}}}
	for _, ip := range ready {
		s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: ip})
	}
	for _, ip := range not {
		s.NotReadyAddresses = append(s.NotReadyAddresses, corev1.EndpointAddress{IP: ip})
	}
	return s
}

func TestMake(t *testing.T) {
	first := endpoints(subset(80, []string{"10.0.0.1", "fd00::1"}, []string{"10.0.0.2"}), subset(81, []string{"10.0.0.3"}, nil), subset(80, []string{"10.0.0.4", "nonsense"}, nil))
	made := Make(first, nil, PerSubset)
	if len(made.Create) != 3 || len(made.Update)+len(made.Delete) != 0 {
		t.Fatalf("%+v", made)
	}
	v4 := made.Create[0]
	if len(v4.Endpoints) != 3 || v4.AddressType != discoveryv1.AddressTypeIPv4 || !*v4.Endpoints[0].Conditions.Ready || *v4.Endpoints[1].Conditions.Ready ||
		fmt.Sprint(v4.Labels) != "map[endpointslice.kubernetes.io/managed-by:"+ManagedBy+" kubernetes.io/service-name:svc l:v]" || fmt.Sprint(v4.Annotations) != "map[a:v]" {
		t.Errorf("%+v", v4)
	}
	for i, s := range made.Create {
		s.Name = fmt.Sprint("s", i)
	}
	for _, tc := range []struct {
		name string
		e    *corev1.Endpoints
		want string // create update delete
	}{
		{"nothing new", first, "0 0 0"},
		{"an address more", endpoints(subset(80, []string{"10.0.0.1", "fd00::1", "10.0.0.9"}, nil), subset(81, []string{"10.0.0.3"}, nil)), "0 1 0"},
		{"another port", endpoints(subset(80, []string{"fd00::1"}, nil), subset(82, []string{"10.0.0.3"}, nil)), "1 0 2"},
		{"nothing to mirror", nil, "0 0 3"},
	} {
		plan := Make(tc.e, made.Create, PerSubset)
		if got := fmt.Sprint(len(plan.Create), len(plan.Update), len(plan.Delete)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestWanted(t *testing.T) {
	selecting := &corev1.Service{Spec: corev1.ServiceSpec{Selector: map[string]string{"a": "b"}}}
	skipped, lock := endpoints(), endpoints()
	skipped.Labels[discoveryv1.LabelSkipMirror] = "true"
	lock.Annotations[leader] = "{}"
	for _, tc := range []struct {
		e    *corev1.Endpoints
		s    *corev1.Service
		want bool
	}{
		{endpoints(), &corev1.Service{}, true}, {endpoints(), selecting, false}, {endpoints(), nil, false}, {nil, &corev1.Service{}, false},
		{skipped, &corev1.Service{}, false}, {lock, &corev1.Service{}, false},
	} {
		if got := Wanted(tc.e, tc.s); got != tc.want {
			t.Errorf("%v %v: %v", tc.e, tc.s, got)
		}
	}
}
