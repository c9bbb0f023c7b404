package storagemigration

import (
	"slices"
	"testing"
	"time"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/controllers"
)

var t0 = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

func TestConditions(t *testing.T) {
	m := &migration{}
	if Ended(m) || MayAppear(m, t0) != patience {
		t.Error("a new one")
	}
	m = Running(m, "", t0)
	if Ended(m) || m.Status.ResourceVersion != "" || MayAppear(m, t0.Add(50*time.Second)) != 10*time.Second {
		t.Errorf("%+v", m.Status)
	}
	m = Running(m, "7", t0.Add(time.Second))
	m = Running(m, "8", t0.Add(time.Second))
	if m.Status.ResourceVersion != "7" || !m.Status.Conditions[0].LastTransitionTime.Time.Equal(t0) {
		t.Errorf("%+v", m.Status)
	}
	for failure, want := range map[string]metav1.Condition{
		"":       {Type: "Succeeded", Reason: "StorageVersionMigrationSucceeded"},
		"not so": {Type: "Failed", Reason: "StorageVersionMigrationFailed", Message: "not so"},
	} {
		over := Over(m, failure, t0.Add(time.Minute))
		run, end := over.Status.Conditions[0], over.Status.Conditions[1]
		if !Ended(over) || run.Status != metav1.ConditionFalse || run.Reason != "MigrationCompleted" || end.Type != want.Type || end.Reason != want.Reason || end.Message != want.Message {
			t.Errorf("%q: %+v", failure, over.Status.Conditions)
		}
	}
}

func TestUnable(t *testing.T) {
	r := controllers.Resource{GroupVersionResource: schema.GroupVersionResource{Group: "g", Version: "v1", Resource: "rs"}}
	all := []controllers.Resource{r}
	if Find(all, metav1.GroupResource{Group: "g", Resource: "x"}) != nil || Find(all, metav1.GroupResource{Group: "g", Resource: "rs"}) == nil {
		t.Error("not found, or too much")
	}
	if why := Unable(&r); why != "" {
		t.Error(why)
	}
	r.Verbs = []string{"create"}
	if why := Unable(&r); why != `resource "g/v1, Resource=rs" does not support discovery operations: [update patch list]` {
		t.Error(why)
	}
}

func TestLater(t *testing.T) {
	for _, c := range []struct {
		have, begun string
		want        bool
	}{{"10", "9", true}, {"9", "9", false}, {"9", "10", false}, {"x", "10", false}, {"9", "", false}} {
		if Later(c.have, c.begun) != c.want {
			t.Errorf("%+v", c)
		}
	}
}

func TestTouch(t *testing.T) {
	got, err := Touch(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, &metav1.ObjectMeta{Name: "n", Namespace: "ns", UID: "u", ResourceVersion: "3"})
	const want = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"n","namespace":"ns","resourceVersion":"3","uid":"u"}}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
}

func TestDefinition(t *testing.T) {
	crd := &extv1.CustomResourceDefinition{
		Spec:   extv1.CustomResourceDefinitionSpec{Versions: []extv1.CustomResourceDefinitionVersion{{Name: "v1"}, {Name: "v2", Storage: true}}},
		Status: extv1.CustomResourceDefinitionStatus{StoredVersions: []string{"v1", "v2"}},
	}
	crd.Generation = 2
	running := Definition(crd, "m", false, t0)
	if c := running.Status.Conditions[0]; c.Type != "StorageMigrating" || c.Status != extv1.ConditionTrue || c.Message != "Migration m is running" || c.ObservedGeneration != 2 || len(running.Status.StoredVersions) != 2 {
		t.Errorf("%+v", running.Status)
	}
	if Definition(running, "m", false, t0.Add(time.Hour)) != nil {
		t.Error("said twice")
	}
	over := Definition(running, "m", true, t0)
	if c := over.Status.Conditions[0]; len(over.Status.Conditions) != 1 || c.Status != extv1.ConditionFalse || c.Reason != "MigrationSucceeded" || !slices.Equal(over.Status.StoredVersions, []string{"v2"}) {
		t.Errorf("%+v", over.Status)
	}
}
