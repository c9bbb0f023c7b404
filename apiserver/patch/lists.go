package patch

import (
	"reflect"
	"strconv"
)

// elementOrder begins the name of a field by which a strategic merge patch
// says in which order a list's elements are to stand.
const elementOrder = "$setElementOrder/"

// merge merges the elements of a patch into a list of objects that are told
// apart by the field key. Without a word about the order that of the patch
// counts; where its elements would have to take turns with others, and where it
// has directives, ok is false.
func (m *merger) merge(to reflect.Value, key string, val, order any) bool {
	elements, ok := val.([]any)
	if !ok || key == "" || len(elements) == 0 {
		return false
	}
	keyField, ok := fieldsOf(to.Type().Elem()).named[key]
	if !ok {
		return false
	}
	at := make(map[string]int, to.Len()+len(elements))
	for i := range to.Len() {
		k, ok := keyOf(to.Index(i).FieldByIndex(keyField.index))
		if _, twice := at[k]; !ok || twice {
			return false
		}
		at[k] = i
	}
	present, patched := to.Len(), make(map[string]bool, len(elements))
	for _, e := range elements {
		doc, ok := e.(map[string]any)
		if !ok {
			return false
		}
		k, ok := keyIn(doc, key)
		if !ok || patched[k] {
			return false
		}
		patched[k] = true
		i, known := at[k]
		if !known {
			i = to.Len()
			at[k] = i
			to.Set(reflect.Append(to, reflect.Zero(to.Type().Elem())))
		}
		if !m.structure(to.Index(i), doc) {
			return false
		}
	}
	if order != nil {
		return inOrder(elements, order, key) && reorder(to, key, order, at)
	}
	if len(patched) == to.Len() {
		return reorder(to, key, val, at)
	}
	if len(patched) == to.Len()-present { // all new: they come first
		list := reflect.MakeSlice(to.Type(), 0, to.Len())
		to.Set(reflect.AppendSlice(reflect.AppendSlice(list, to.Slice(present, to.Len())), to.Slice(0, present)))
		return true
	}
	last := -1
	for _, e := range elements {
		k, _ := keyIn(e.(map[string]any), key)
		if at[k] < last || at[k] >= present {
			return false
		}
		last = at[k]
	}
	return true
}

// inOrder says that the elements follow each other as a named order has them.
func inOrder(elements []any, order any, key string) bool {
	names, _ := order.([]any)
	for _, n := range names {
		if len(elements) == 0 {
			break
		}
		doc, _ := n.(map[string]any)
		name, ok := keyIn(doc, key)
		if next, _ := keyIn(elements[0].(map[string]any), key); ok && next == name {
			elements = elements[1:]
		}
	}
	return len(elements) == 0
}

// reorder puts the elements into the order that a patch names, if it names all.
func reorder(to reflect.Value, key string, order any, at map[string]int) bool {
	names, ok := order.([]any)
	if !ok || len(names) != to.Len() {
		return false
	}
	list := reflect.MakeSlice(to.Type(), 0, len(names))
	for _, n := range names {
		doc, ok := n.(map[string]any)
		if !ok {
			return false
		}
		k, ok := keyIn(doc, key)
		i, known := at[k]
		if !ok || !known {
			return false
		}
		delete(at, k) // not twice
		list = reflect.Append(list, to.Index(i))
	}
	to.Set(list)
	return true
}

// keyOf is the text of a key that is a string or a number.
func keyOf(v reflect.Value) (string, bool) {
	switch {
	case v.Kind() == reflect.String:
		return "s" + v.String(), true
	case v.CanInt():
		return "i" + strconv.FormatInt(v.Int(), 10), true
	}
	return "", false
}

func keyIn(doc map[string]any, key string) (string, bool) {
	switch k := doc[key].(type) {
	case string:
		return "s" + k, true
	case int64:
		return "i" + strconv.FormatInt(k, 10), true
	}
	return "", false
}

// hasNull says that a value has a null somewhere: in a list that is replaced
// it stands for itself, not for what is to be cleared.
func hasNull(val any) bool {
	switch v := val.(type) {
	case nil:
		return true
	case map[string]any:
		for _, e := range v {
			if hasNull(e) {
				return true
			}
		}
	case []any:
		for _, e := range v {
			if hasNull(e) {
				return true
			}
		}
	}
	return false
}
