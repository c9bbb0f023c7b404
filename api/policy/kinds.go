// Package policy holds the rows of the API group of pod disruption budgets:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package policy

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		podDisruptionBudgetKind(),
	}
}
