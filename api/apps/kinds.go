// Package apps holds the rows of the API group of workloads: deployments, replica sets, daemon sets, stateful sets and controller revisions:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package apps

import (
	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
)

// Kinds returns the group's rows, new ones with every call. on says which
// features of pods are on.
func Kinds(on podspec.Gates) []*api.Kind {
	return []*api.Kind{
		deploymentKind(on),
		replicaSetKind(on),
		statefulSetKind(on),
		daemonSetKind(on),
		controllerRevisionKind(),
	}
}
