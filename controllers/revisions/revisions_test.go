package revisions

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"
)

func template(image string) *corev1.PodTemplateSpec {
	t := &corev1.PodTemplateSpec{}
	t.Labels = map[string]string{"app": "a"}
	t.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	return t
}

func owner(image string) Owner {
	return Owner{
		Object:   &metav1.ObjectMeta{Namespace: "ns", Name: "set", Annotations: map[string]string{"kubernetes.io/change-cause": "why"}},
		Ref:      metav1.OwnerReference{Name: "set", UID: "u"},
		Template: template(image), HashLabel: "hash",
	}
}

func held(image string, number int64) *appsv1.ControllerRevision {
	return fresh(owner(image), Data(template(image)), number)
}

func TestFind(t *testing.T) {
	reordered := held("v1", 1)
	reordered.Data.Raw = []byte(`{"spec":{"template":{"spec":{"containers":[{"image":"v1","name":"c"}]},"metadata":{"creationTimestamp":null,"labels":{"app":"a"}},"$patch":"replace"}}}`)
	for _, tc := range []struct {
		name  string
		image string
		have  []*appsv1.ControllerRevision
		want  string // what happens, number, old numbers
	}{
		{"first", "v1", nil, "create 1 []"},
		{"same", "v1", []*appsv1.ControllerRevision{held("v1", 1)}, "keep 1 []"},
		{"written by another", "v1", []*appsv1.ControllerRevision{reordered}, "keep 1 []"},
		{"new", "v3", []*appsv1.ControllerRevision{held("v2", 2), held("v1", 1)}, "create 3 [1 2]"},
		{"rolled back", "v1", []*appsv1.ControllerRevision{held("v1", 1), held("v2", 2)}, "renumber 3 [2]"},
		{"twice the same", "v1", []*appsv1.ControllerRevision{held("v1", 4), held("v1", 3), held("v2", 2)}, "keep 4 [2 3]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := Find(owner(tc.image), tc.have)
			what := "keep"
			switch {
			case h.Create:
				what = "create"
			case h.Renumber:
				what = "renumber"
			}
			var old []int64
			for _, r := range h.Old {
				old = append(old, r.Revision)
			}
			if got := fmt.Sprint(what, " ", h.Current.Revision, " ", old); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// What rollout undo does: the revision's data, patched onto a set, gives back
// the template, with nothing left of the one that was there.
func TestDataIsAPatch(t *testing.T) {
	ds := &appsv1.DaemonSet{}
	ds.Name, ds.Spec.Template = "set", *template("v2")
	ds.Spec.Template.Labels["more"], ds.Spec.Template.Spec.HostNetwork = "yes", true
	have, err := json.Marshal(ds)
	if err != nil {
		t.Fatal(err)
	}
	out, err := strategicpatch.StrategicMergePatch(have, held("v1", 1).Data.Raw, &appsv1.DaemonSet{})
	if err != nil {
		t.Fatal(err)
	}
	got := &appsv1.DaemonSet{}
	if err := json.Unmarshal(out, got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "set" || string(Data(&got.Spec.Template)) != string(Data(template("v1"))) {
		t.Errorf("%s", out)
	}
	back, err := Template(held("v1", 1))
	if err != nil || back.Spec.Containers[0].Image != "v1" {
		t.Errorf("%+v %v", back, err)
	}
}

func TestNewRevision(t *testing.T) {
	r := held("v1", 1)
	if r.Labels["app"] != "a" || r.Labels["hash"] == "" || r.Name != "set-"+r.Labels["hash"] || r.Annotations["kubernetes.io/change-cause"] != "why" {
		t.Errorf("%+v", r.ObjectMeta)
	}
	a, b := Hash([]byte("x"), nil), Hash([]byte("x"), ptr.To[int32](1))
	if a == b || a != Hash([]byte("x"), ptr.To[int32](0)) {
		t.Errorf("%s %s: a collision must change the name, and none must not", a, b)
	}
}

func TestExcess(t *testing.T) {
	var all []*appsv1.ControllerRevision
	for _, n := range []int64{4, 2, 3, 1} {
		all = append(all, held(fmt.Sprint("v", n), n))
	}
	live := func(r *appsv1.ControllerRevision) bool { return r.Revision == 2 }
	for limit, want := range map[int32]string{0: "1 3 4", 1: "1 3", 2: "1", 3: ""} {
		var got []string
		for _, r := range Excess(all, &limit, live) {
			got = append(got, fmt.Sprint(r.Revision))
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("limit %d: %q, want %q", limit, g, want)
		}
	}
}
