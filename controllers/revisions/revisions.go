// Package revisions keeps the history of a pod template as ControllerRevisions,
// in the form that kubectl rollout and other implementations of the DaemonSet
// and StatefulSet controllers read: templates and the present history in,
// revisions to make, to renumber and to delete out.
package revisions

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
)

// Data is the content of a template's revision: the strategic merge patch that
// puts the template back, which is what rollout undo sends.
func Data(t *corev1.PodTemplateSpec) []byte {
	raw, err := json.Marshal(t)
	if err != nil {
		panic(err) // plain data of the API's own type
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		panic(err)
	}
	m["$patch"] = "replace"
	raw, err = json.Marshal(map[string]any{"spec": map[string]any{"template": m}})
	if err != nil {
		panic(err)
	}
	return raw
}

// Template is the template that a revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var d struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &d); err != nil {
		return nil, fmt.Errorf("reading ControllerRevision %s: %w", r.Name, err)
	}
	return &d.Spec.Template, nil
}

// Hash names a revision's content; collisions tells apart contents that would
// share a name.
func Hash(data []byte, collisions *int32) string {
	h := fnv.New32a()
	h.Write(data)
	if collisions != nil && *collisions != 0 {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], uint32(*collisions))
		h.Write(b[:])
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// Sort orders revisions from the oldest to the newest.
func Sort(all []*appsv1.ControllerRevision) {
	slices.SortStableFunc(all, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// History is a template's place among the revisions there are.
type History struct {
	// Current holds the template. It is a new object without a
	// resourceVersion when it has yet to be made, and a changed copy when
	// Renumber is set.
	Current  *appsv1.ControllerRevision
	Create   bool
	Renumber bool
	// Old are the others, oldest first.
	Old []*appsv1.ControllerRevision
}

// Owner is what the revisions of a set are made from.
type Owner struct {
	Object metav1.Object
	Ref    metav1.OwnerReference
	// Template is what the revision holds, HashLabel the label by which the
	// kind finds it.
	Template   *corev1.PodTemplateSpec
	HashLabel  string
	Collisions *int32
}

// Find plans the history for the owner's present template: reuse the newest
// revision of the same content, made the newest of all, or make one.
func Find(o Owner, all []*appsv1.ControllerRevision) History {
	all = slices.Clone(all)
	Sort(all)
	data := Data(o.Template)
	var h History
	for _, r := range all {
		if r.DeletionTimestamp == nil && Holds(r, data, o.Template) {
			if h.Current != nil {
				h.Old = append(h.Old, h.Current)
			}
			h.Current = r
		} else {
			h.Old = append(h.Old, r)
		}
	}
	Sort(h.Old)
	next := int64(1)
	if n := len(h.Old); n > 0 {
		next = h.Old[n-1].Revision + 1
	}
	switch {
	case h.Current == nil:
		h.Current, h.Create = fresh(o, data, next), true
	case h.Current.Revision < next:
		h.Current, h.Renumber = h.Current.DeepCopy(), true
		h.Current.Revision = next
	}
	return h
}

// Holds says that the revision has this content, whoever wrote it down.
func Holds(r *appsv1.ControllerRevision, data []byte, t *corev1.PodTemplateSpec) bool {
	if bytes.Equal(r.Data.Raw, data) {
		return true
	}
	have, err := Template(r)
	return err == nil && apiequality.Semantic.DeepEqual(have, t)
}

func fresh(o Owner, data []byte, number int64) *appsv1.ControllerRevision {
	hash := Hash(data, o.Collisions)
	r := &appsv1.ControllerRevision{Revision: number, Data: runtime.RawExtension{Raw: data}}
	r.Namespace, r.Name = o.Object.GetNamespace(), o.Object.GetName()+"-"+hash
	r.Labels = maps.Clone(o.Template.Labels)
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[o.HashLabel] = hash
	r.Annotations = maps.Clone(o.Object.GetAnnotations())
	r.OwnerReferences = []metav1.OwnerReference{o.Ref}
	return r
}

// Excess returns the oldest revisions beyond the limit that are not in use.
func Excess(old []*appsv1.ControllerRevision, limit *int32, live func(*appsv1.ControllerRevision) bool) []*appsv1.ControllerRevision {
	keep := 10
	if limit != nil {
		keep = int(*limit)
	}
	dead := slices.DeleteFunc(slices.Clone(old), live)
	if len(dead) <= keep {
		return nil
	}
	Sort(dead)
	return dead[:len(dead)-keep]
}
