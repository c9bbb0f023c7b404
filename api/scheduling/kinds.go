// Package scheduling holds the rows of the API group of priority classes:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package scheduling

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		priorityClassKind(),
	}
}
