package garbagecollector

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func obj(name string, finalizers []string, deleting bool, owners ...string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name), Finalizers: finalizers}}
	if deleting {
		m.DeletionTimestamp = &metav1.Time{}
	}
	yes := true
	for _, o := range owners {
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: o, UID: types.UID(o), BlockOwnerDeletion: &yes})
	}
	return m
}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func kind(metav1.OwnerReference) (schema.GroupVersionResource, bool, bool) {
	return configMaps, true, true
}

func TestDecide(t *testing.T) {
	foreground, orphaned := []string{metav1.FinalizerDeleteDependents}, []string{metav1.FinalizerOrphanDependents}
	for _, tc := range []struct {
		name   string
		all    []*corev1.ConfigMap // the first is decided on
		absent map[string]presence
		kind   actionKind
		policy metav1.DeletionPropagation
	}{
		{"owner lives", []*corev1.ConfigMap{obj("a", nil, false, "o"), obj("o", []string{"x"}, false)}, nil, nothing, ""},
		{"owner absent", []*corev1.ConfigMap{obj("a", nil, false, "o")}, map[string]presence{"o": absent}, remove, metav1.DeletePropagationBackground},
		{"one of two absent", []*corev1.ConfigMap{obj("a", nil, false, "o", "p"), obj("p", []string{"x"}, false)}, map[string]presence{"o": absent}, keepRefs, ""},
		{"both absent", []*corev1.ConfigMap{obj("a", nil, false, "o", "p")}, map[string]presence{"o": absent, "p": absent}, remove, metav1.DeletePropagationBackground},
		{"a reference that can name nothing", []*corev1.ConfigMap{obj("a", nil, false, "o")}, map[string]presence{"o": unresolvable}, nothing, ""},
		{"owner waits", []*corev1.ConfigMap{obj("a", nil, false, "o"), obj("o", foreground, true)}, nil, remove, metav1.DeletePropagationBackground},
		{"owner waits, and there are dependents", []*corev1.ConfigMap{obj("a", nil, false, "o"), obj("o", foreground, true), obj("d", nil, false, "a")}, nil, remove, metav1.DeletePropagationForeground},
		{"keeps how it was to be deleted", []*corev1.ConfigMap{obj("a", orphaned, false, "o")}, map[string]presence{"o": absent}, remove, metav1.DeletePropagationOrphan},
		{"on its way", []*corev1.ConfigMap{obj("a", []string{"x"}, true, "o")}, map[string]presence{"o": absent}, nothing, ""},
		{"orphaning", []*corev1.ConfigMap{obj("a", orphaned, true), obj("d", nil, false, "a")}, nil, orphan, ""},
		{"waits for a dependent", []*corev1.ConfigMap{obj("a", foreground, true), obj("d", nil, false, "a")}, nil, nothing, ""},
		{"owns itself", []*corev1.ConfigMap{obj("a", foreground, true, "a")}, nil, keepFinalizers, ""},
		{"a circle in which all wait", []*corev1.ConfigMap{obj("a", foreground, true, "b"), obj("b", foreground, true, "c"), obj("c", foreground, true, "a")}, nil, keepFinalizers, ""},
		{"a circle with one that is not deleted yet", []*corev1.ConfigMap{obj("a", foreground, true, "b"), obj("b", foreground, true, "c"), obj("c", nil, false, "a")}, nil, nothing, ""},
		{"a circle and a dependent beside it", []*corev1.ConfigMap{obj("a", foreground, true, "b"), obj("b", foreground, true, "a"), obj("d", nil, false, "a")}, nil, nothing, ""},
		{"waits no longer", []*corev1.ConfigMap{obj("a", foreground, true)}, nil, keepFinalizers, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// The graph must not depend on the order of arrival.
			for _, backwards := range []bool{false, true} {
				g := newGraph()
				for i := range tc.all {
					if backwards {
						i = len(tc.all) - 1 - i
					}
					g.put(configMaps, tc.all[i])
				}
				s, ok := g.look(tc.all[0].UID, kind)
				if !ok {
					t.Fatal("not in the graph")
				}
				owners := make([]presence, len(s.owners))
				for i, o := range s.owners {
					owners[i] = tc.absent[string(o.ref.UID)]
				}
				if a := decide(&s, owners); a.kind != tc.kind || a.policy != tc.policy {
					t.Errorf("backwards %v: %+v", backwards, a)
				}
			}
		})
	}
}

func TestGraphWakes(t *testing.T) {
	g := newGraph()
	if wake := g.put(configMaps, obj("plain", nil, false)); len(wake) > 0 || len(g.nodes) > 0 {
		t.Errorf("an object without owners is kept: %v", wake)
	}
	if wake := g.put(configMaps, obj("a", nil, false, "o")); len(wake) != 2 {
		t.Errorf("the object and its unknown owner are to be looked at, got %v", wake)
	}
	g.fill(configMaps, obj("o", nil, false))
	if wake := g.put(configMaps, obj("a", nil, false, "o")); len(wake) != 0 {
		t.Errorf("nothing has changed, got %v", wake)
	}
	if wake := g.put(configMaps, obj("o", []string{metav1.FinalizerDeleteDependents}, true)); len(wake) == 0 {
		t.Error("the owner begins to wait")
	}
	if wake := g.remove("a"); len(wake) != 1 || wake[0] != "o" {
		t.Errorf("the waiting owner is to be looked at, got %v", wake)
	}
	if g.remove("o"); len(g.nodes) != 0 {
		t.Errorf("left: %v", g.nodes)
	}
	g.put(configMaps, obj("b", nil, false, "v"))
	if g.remove("b"); len(g.nodes) != 0 {
		t.Errorf("an owner known from nobody stays: %v", g.nodes)
	}
}
