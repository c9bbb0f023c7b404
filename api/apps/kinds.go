// Package apps holds the rows of the API group of workloads: deployments, replica sets, daemon sets, stateful sets and controller revisions:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package apps

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		deploymentKind(),
		replicaSetKind(),
		statefulSetKind(),
		daemonSetKind(),
		controllerRevisionKind(),
	}
}
