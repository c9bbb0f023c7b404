// Package autoscaling holds the rows of the API group of horizontal pod
// autoscalers, and the Scale subresource that other groups share: objects of
// the group go in, defaulted, prepared, judged and printed ones come out.
package autoscaling

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{horizontalPodAutoscalerKind()}
}
