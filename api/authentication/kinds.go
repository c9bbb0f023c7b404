// Package authentication holds the rows of the API group of token and subject reviews, which are answered and never stored:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package authentication

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		tokenReviewKind(),
		selfSubjectReviewKind(),
	}
}
