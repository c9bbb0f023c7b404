// Package authorization holds the rows of the API group of access reviews, which are answered and never stored:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package authorization

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		subjectAccessReviewKind(),
		selfSubjectAccessReviewKind(),
		localSubjectAccessReviewKind(),
		selfSubjectRulesReviewKind(),
	}
}
