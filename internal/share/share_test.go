package share

import (
	"reflect"
	"testing"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app": "web"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{}}`)}}},
		},
		Spec: corev1.PodSpec{NodeName: "node-" + name, Containers: []corev1.Container{{
			Name: "c", Env: []corev1.EnvVar{{Name: "A", Value: "b"}}, VolumeMounts: []corev1.VolumeMount{{Name: "v-" + name}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
		}}},
	}
}

// Siblings hold what they have in common once, and stay what they were.
func TestWith(t *testing.T) {
	a, b := pod("a"), pod("b")
	With(b, a)
	if want := pod("b"); !reflect.DeepEqual(b, want) {
		t.Errorf("it is %v", b)
	}
	if !reflect.DeepEqual(a, pod("a")) {
		t.Errorf("the other is %v", a)
	}
	ca, cb := &a.Spec.Containers[0], &b.Spec.Containers[0]
	for what, same := range map[string]bool{
		"labels":         reflect.ValueOf(a.Labels).Pointer() == reflect.ValueOf(b.Labels).Pointer(),
		"managed fields": unsafe.SliceData(a.ManagedFields) == unsafe.SliceData(b.ManagedFields),
		"environment":    unsafe.SliceData(ca.Env) == unsafe.SliceData(cb.Env),
		"requests":       reflect.ValueOf(ca.Resources.Requests).Pointer() == reflect.ValueOf(cb.Resources.Requests).Pointer(),
		"name":           unsafe.StringData(ca.Name) == unsafe.StringData(cb.Name),
	} {
		if !same {
			t.Errorf("%s: held twice", what)
		}
	}
	if ca == cb || unsafe.SliceData(ca.VolumeMounts) == unsafe.SliceData(cb.VolumeMounts) {
		t.Error("what differs is one")
	}
	c := pod("a")
	With(c, a)
	if unsafe.SliceData(c.Spec.Containers) != unsafe.SliceData(a.Spec.Containers) {
		t.Error("equal containers are held twice")
	}
	With(c, &corev1.Node{})
	With(c, (*corev1.Pod)(nil))
	With(c, c)
}

// Nothing is lost or mixed up, whatever is in the objects.
func TestWithKeepsObjects(t *testing.T) {
	fill := randfill.NewWithSeed(1).NilChance(0.3).NumElements(0, 3).MaxDepth(12).Funcs(
		func(q *resource.Quantity, c randfill.Continue) { q.Set(int64(c.Intn(3))) })
	for range 300 {
		var a, b corev1.Pod
		fill.Fill(&a)
		fill.Fill(&b)
		// Half of it is alike.
		b.Spec.Containers, b.Status = a.DeepCopy().Spec.Containers, a.DeepCopy().Status
		wantA, wantB := a.DeepCopy(), b.DeepCopy()
		With(&b, &a)
		if !reflect.DeepEqual(&a, wantA) || !reflect.DeepEqual(&b, wantB) {
			t.Fatal("an object has changed")
		}
	}
}

func BenchmarkWith(b *testing.B) {
	like, obj := pod("a"), pod("b")
	for b.Loop() {
		n := *obj
		With(&n, like)
	}
}
