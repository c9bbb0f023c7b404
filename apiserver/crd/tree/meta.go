package tree

import "time"

// plain says that metadata is written as ObjectMeta is when it is encoded:
// known fields of the right type, none that is empty. Reading it into an
// ObjectMeta and writing that would then change nothing.
func plain(meta map[string]any) bool {
	for name, v := range meta {
		ok := false
		switch name {
		case "name", "generateName", "namespace", "selfLink", "uid", "resourceVersion":
			ok = filled(v)
		case "generation":
			n, is := v.(int64)
			ok = is && n != 0
		case "deletionGracePeriodSeconds":
			_, ok = v.(int64)
		case "creationTimestamp", "deletionTimestamp":
			ok = timestamp(v)
		case "labels", "annotations":
			ok = texts(v)
		case "finalizers":
			list, is := v.([]any)
			ok = is && each(list, func(v any) bool { _, is := v.(string); return is })
		case "ownerReferences":
			list, is := v.([]any)
			ok = is && each(list, ownerReference)
		case "managedFields":
			list, is := v.([]any)
			ok = is && each(list, managedFields)
		}
		if !ok {
			return false
		}
	}
	return true
}

func filled(v any) bool { s, ok := v.(string); return ok && s != "" }

// timestamp says that a text is a time in its one form.
func timestamp(v any) bool {
	s, ok := v.(string)
	if !ok || len(s) != len("2006-01-02T15:04:05Z") || s[len(s)-1] != 'Z' {
		return false
	}
	t, err := time.Parse(time.RFC3339, s)
	return err == nil && !t.IsZero()
}

// texts says that v is a map of texts that has some.
func texts(v any) bool {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return false
	}
	for _, v := range m {
		if _, ok := v.(string); !ok {
			return false
		}
	}
	return true
}

// each says that a list has items and all of them are as they should be.
func each(list []any, ok func(any) bool) bool {
	for _, v := range list {
		if !ok(v) {
			return false
		}
	}
	return len(list) > 0
}

func ownerReference(v any) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	always := 0
	for name, v := range m {
		switch name {
		case "apiVersion", "kind", "name", "uid":
			_, ok = v.(string)
			always++
		case "controller", "blockOwnerDeletion":
			_, ok = v.(bool)
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return always == 4
}

func managedFields(v any) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	for name, v := range m {
		switch name {
		case "manager", "operation", "apiVersion", "fieldsType", "subresource":
			ok = filled(v)
		case "time":
			ok = timestamp(v)
		case "fieldsV1":
			_, ok = v.(map[string]any)
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}
