package fields

import (
	"bytes"
	"compress/gzip"
	"io"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
)

// source is client-go's schema.
func source(t *testing.T) *smd.Schema {
	t.Helper()
	cm := &corev1.ConfigMap{}
	cm.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	tv, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(cm)
	if err != nil {
		t.Fatal(err)
	}
	return tv.Schema()
}

func TestGeneratedFileIsCurrent(t *testing.T) {
	var want bytes.Buffer
	if err := Compile(source(t), &want); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(compiled))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("zz_schema.gz is not what go generate makes")
	}
}

// TestSameTypes reads every type back and compares it with its source.
func TestSameTypes(t *testing.T) {
	lines, err := load()
	if err != nil {
		t.Fatal(err)
	}
	src := source(t)
	if len(src.Types) != len(lines) || len(lines) < 500 {
		t.Fatalf("%d types, want %d", len(lines), len(src.Types))
	}
	for _, want := range src.Types {
		got, err := closure(lines, []string{want.Name})
		if err != nil {
			t.Fatal(err)
		}
		if !sameAtom(&got[0].Atom, &want.Atom) {
			t.Errorf("%s differs: %+v, want %+v", want.Name, got[0].Atom, want.Atom)
		}
	}
}

func sameAtom(a, b *smd.Atom) bool { return reflect.DeepEqual(pack(a), pack(b)) }

func TestConverter(t *testing.T) {
	pod := corev1.SchemeGroupVersion.WithKind("Pod")
	c, err := Converter(scheme.Scheme, pod)
	if err != nil {
		t.Fatal(err)
	}
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
	p.SetGroupVersionKind(pod)
	if _, err := c.ObjectToTyped(p); err != nil {
		t.Error(err)
	}
	if _, err := Converter(scheme.Scheme, schema.GroupVersionKind{Version: "v1", Kind: "Binding"}); err == nil {
		t.Error("a schema for Binding, which has none")
	}
}

func BenchmarkConverter(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Converter(scheme.Scheme, corev1.SchemeGroupVersion.WithKind("Pod")); err != nil {
			b.Fatal(err)
		}
	}
}
