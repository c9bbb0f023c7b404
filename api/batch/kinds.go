// Package batch holds the rows of the API group of jobs and cron jobs:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package batch

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		jobKind(),
		cronJobKind(),
	}
}
