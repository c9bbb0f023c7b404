// Package node holds the rows of the API group of runtime classes:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package node

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		runtimeClassKind(),
	}
}
