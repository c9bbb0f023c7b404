package apiserver

import (
	"bytes"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/coxswain/cox/internal/plainjson"
)

// entriesOf are an object's managedFields. They are read only.
func entriesOf(obj runtime.Object) []metav1.ManagedFieldsEntry {
	u, custom := obj.(*unstructured.Unstructured)
	if !custom {
		return accessor(obj).GetManagedFields()
	}
	list := entriesTree(u)
	if len(list) == 0 {
		return u.GetManagedFields()
	}
	out := make([]metav1.ManagedFieldsEntry, 0, len(list))
	for _, item := range list {
		e, ok := entry(item)
		if !ok {
			return u.GetManagedFields() // which says what it cannot read
		}
		out = append(out, e)
	}
	return out
}

// entry reads one of a custom object's managedFields; ok is false for one that
// is not written as they are.
func entry(item any) (e metav1.ManagedFieldsEntry, ok bool) {
	m, is := item.(map[string]any)
	if !is {
		return e, false
	}
	for name, v := range m {
		switch text, _ := v.(string); name {
		case "manager":
			e.Manager = text
		case "operation":
			e.Operation = metav1.ManagedFieldsOperationType(text)
		case "apiVersion":
			e.APIVersion = text
		case "fieldsType":
			e.FieldsType = text
		case "subresource":
			e.Subresource = text
		case "time":
			t, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return e, false
			}
			e.Time = &metav1.Time{Time: t.Local()}
		case "fieldsV1":
			raw, err := plainjson.Marshal(v)
			if _, is := v.(map[string]any); !is || err != nil {
				return e, false
			}
			e.FieldsV1 = &metav1.FieldsV1{Raw: raw}
			continue
		default:
			return e, false
		}
		if s, is := v.(string); !is || s == "" {
			return e, false
		}
	}
	return e, true
}

// setEntries sets obj's managedFields. before are those of live, whose trees
// are shared where the fields are the same: nobody changes them.
func setEntries(obj runtime.Object, entries []metav1.ManagedFieldsEntry, live runtime.Object, before []metav1.ManagedFieldsEntry) {
	if u, custom := obj.(*unstructured.Unstructured); custom && len(entries) > 0 {
		if meta, ok := u.Object["metadata"].(map[string]any); ok {
			if list, ok := written(entries, live, before); ok {
				meta["managedFields"] = list
				return
			}
		}
	}
	accessor(obj).SetManagedFields(entries)
}

// written are entries as a custom object has them; ok is false for entries
// that are not whole.
func written(entries []metav1.ManagedFieldsEntry, live runtime.Object, before []metav1.ManagedFieldsEntry) (list []any, ok bool) {
	for i := range entries {
		e := &entries[i]
		if e.FieldsV1 == nil || e.Time == nil {
			return nil, false
		}
		tree := knownTree(e.FieldsV1.Raw, live, before)
		if tree == nil && kjson.UnmarshalCaseSensitivePreserveInts(e.FieldsV1.Raw, &tree) != nil {
			return nil, false
		}
		m := make(map[string]any, 7)
		for _, f := range [...]struct{ name, text string }{
			{"manager", e.Manager}, {"operation", string(e.Operation)}, {"apiVersion", e.APIVersion},
			{"fieldsType", e.FieldsType}, {"subresource", e.Subresource}, {"time", e.Time.UTC().Format(time.RFC3339)},
		} {
			if f.text != "" {
				m[f.name] = f.text
			}
		}
		m["fieldsV1"] = tree
		list = append(list, m)
	}
	return list, true
}

// knownTree finds the fields of an entry among those of live.
func knownTree(raw []byte, live runtime.Object, before []metav1.ManagedFieldsEntry) map[string]any {
	u, custom := live.(*unstructured.Unstructured)
	if !custom {
		return nil
	}
	list := entriesTree(u)
	if len(list) != len(before) {
		return nil
	}
	for i := range before {
		if before[i].FieldsV1 == nil || !bytes.Equal(before[i].FieldsV1.Raw, raw) {
			continue
		}
		if m, ok := list[i].(map[string]any); ok {
			tree, _ := m["fieldsV1"].(map[string]any)
			return tree
		}
	}
	return nil
}

// sharesEntries says that both have the very same managedFields.
func sharesEntries(a *unstructured.Unstructured, live runtime.Object) bool {
	b, ok := live.(*unstructured.Unstructured)
	if !ok {
		return false
	}
	x, y := entriesTree(a), entriesTree(b)
	return len(x) > 0 && len(x) == len(y) && &x[0] == &y[0]
}

// entriesTree are a custom object's managedFields as they stand in it.
func entriesTree(u *unstructured.Unstructured) []any {
	meta, _ := u.Object["metadata"].(map[string]any)
	list, _ := meta["managedFields"].([]any)
	return list
}
