package shape

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func describe(t *testing.T, old, new any) ([]byte, bool) {
	t.Helper()
	out, changed, ok := Append(nil, reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem())
	if !ok || changed != (len(out) > 0) {
		t.Fatal(out, changed, ok)
	}
	return out, changed
}

func labelled(kv ...string) *corev1.Pod {
	p := &corev1.Pod{}
	p.Labels = map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		p.Labels[kv[i]] = kv[i+1]
	}
	return p
}

func node(name string) *corev1.Pod { return &corev1.Pod{Spec: corev1.PodSpec{NodeName: name}} }

func image(name, image string) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: name, Image: image}}}}
}

// ready has conditions of which each changed at so many seconds; 0 is never.
func ready(at ...int64) *corev1.Pod {
	p := &corev1.Pod{}
	for i, sec := range at {
		c := corev1.PodCondition{Type: corev1.PodConditionType(rune('A' + i))}
		if sec > 0 {
			c.LastTransitionTime = metav1.Unix(sec, 0)
		}
		p.Status.Conditions = append(p.Status.Conditions, c)
	}
	return p
}

func seconds(n *int64) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{ActiveDeadlineSeconds: n}}
}

// TestSame: changes of the same fields have one description, whatever the
// values.
func TestSame(t *testing.T) {
	for name, c := range map[string][4]any{
		"scalar":  {node("a"), node("b"), node("c"), node("d")},
		"label":   {labelled("a", "1"), labelled("a", "2"), labelled("a", "x"), labelled("a", "y")},
		"equal":   {image("a", "b"), image("a", "b"), labelled("a", "x"), labelled("a", "x")},
		"times":   {ready(1, 1), ready(1, 2), ready(5, 5), ready(5, 7)},
		"no time": {ready(0, 1), ready(2, 3), ready(0, 4), ready(7, 5)},
		"pointer": {seconds(nil), seconds(new(int64)), seconds(nil), seconds(new(int64))},
	} {
		a, _ := describe(t, c[0], c[1])
		b, _ := describe(t, c[2], c[3])
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %q is not %q", name, a, b)
		}
	}
}

// TestDifferent: changes of other fields, and of members of lists, have
// others.
func TestDifferent(t *testing.T) {
	one := int64(1)
	all := [][2]any{
		{node("a"), node("a")},
		{node("a"), node("b")},
		{node(""), node("b")},
		{node("a"), node("")},
		{labelled(), labelled("a", "1")},
		{labelled("a", "1"), labelled()},
		{labelled("a", "1"), labelled("a", "2")},
		{labelled("b", "1"), labelled("b", "2")},
		{labelled("b", "1"), labelled("b", "2", "a", "1")},
		{labelled("b", "1"), labelled("b", "1", "a", "1")},
		{&corev1.Pod{}, labelled()},
		{labelled(), &corev1.Pod{}},
		{&corev1.Pod{}, image("a", "b")},
		{&corev1.Pod{}, image("a", "c")},
		{image("a", "b"), image("a", "c")},
		{image("a", "b"), &corev1.Pod{}},
		{seconds(nil), seconds(&one)},
		{seconds(&one), seconds(nil)},
		{seconds(new(int64)), seconds(&one)},
		{ready(1, 1), ready(1, 2)},
		{ready(1, 1), ready(2, 1)},
		{ready(1, 1), ready(2, 2)},
		{ready(1, 1), ready(2, 3)},
		{ready(1, 2), ready(2, 1)},
		{ready(1, 2), ready(3, 4)},
		{ready(1, 0), ready(3, 4)},
		{ready(1, 0), ready(1, 4)},
		{ready(0, 0), ready(1, 1)},
		{ready(1, 1), ready(0, 1)},
	}
	seen := map[string]int{}
	for i, c := range all {
		out, changed := describe(t, c[0], c[1])
		if changed != (i > 0) {
			t.Errorf("%d: changed %v", i, changed)
		}
		if j, ok := seen[string(out)]; ok {
			t.Errorf("%d and %d are both %q", i, j, out)
		}
		seen[string(out)] = i
	}
}

// TestSingle covers the structs that are shown as one value, and the lists
// that members of lists hold.
func TestSingle(t *testing.T) {
	at := func(sec int64, q string) *corev1.Pod {
		p := image("a", "b")
		p.CreationTimestamp = metav1.NewTime(time.Unix(sec, 0))
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse(q)}
		return p
	}
	if _, changed := describe(t, at(1, "1000m"), at(1, "1")); changed {
		t.Error("equal quantities differ")
	}
	a, _ := describe(t, at(1, "1"), at(1, "2"))
	b, _ := describe(t, at(1, "1"), at(1, "3"))
	if bytes.Equal(a, b) {
		t.Error("quantities in lists are not told apart")
	}
	if _, changed := describe(t, at(1, "1"), at(2, "1")); !changed {
		t.Error("a time does not count")
	}
	type hidden struct{ a int }
	if _, _, ok := Append(nil, reflect.ValueOf(hidden{1}), reflect.ValueOf(hidden{2})); ok {
		t.Error("hidden fields described")
	}
}

func BenchmarkPodStatus(b *testing.B) {
	old, is := image("a", "b"), image("a", "b")
	is.Status.Phase = corev1.PodRunning
	var out []byte
	for b.Loop() {
		out, _, _ = Append(out[:0], reflect.ValueOf(old).Elem(), reflect.ValueOf(is).Elem())
	}
}

// TestManyTimes: times beyond those that get a place are still told apart.
func TestManyTimes(t *testing.T) {
	var all []int64
	for i := range int64(2 * maxTimes) {
		all = append(all, i+1)
	}
	a, _ := describe(t, ready(), ready(all...))
	all[len(all)-1] = 1
	b, _ := describe(t, ready(), ready(all...))
	if bytes.Equal(a, b) {
		t.Error("a time that is equal to another is not told from one that is not")
	}
	if _, changed := describe(t, ready(all...), ready(all...)); changed {
		t.Error("equal lists differ")
	}
}
