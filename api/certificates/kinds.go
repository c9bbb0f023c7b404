// Package certificates holds the rows of the API group of certificate signing requests:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package certificates

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		certificateSigningRequestKind(),
	}
}
