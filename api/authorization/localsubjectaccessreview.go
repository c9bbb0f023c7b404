package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/coxswain/cox/api"
)

func localSubjectAccessReviewKind() *api.Kind {
	gvk := authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview")
	return &api.Kind{
		Hub:      gvk,
		Resource: "localsubjectaccessreviews", Singular: "localsubjectaccessreview",
		Namespaced: true, Verbs: []string{"create"},
		New:      api.New[authorizationv1.LocalSubjectAccessReview](),
		Views:    api.Serve(gvk),
		Strategy: api.Strategy{Validate: api.Check(validateLocalReview)},
	}
}
