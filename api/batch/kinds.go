// Package batch holds the rows of the API group of jobs and cron jobs:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package batch

import (
	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
)

// Kinds returns the group's rows, new ones with every call. on says which
// features of pods are on.
func Kinds(on podspec.Gates) []*api.Kind {
	return []*api.Kind{
		jobKind(on),
		cronJobKind(on),
	}
}
