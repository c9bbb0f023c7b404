package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/coxswain/cox/api"
)

func selfSubjectAccessReviewKind() *api.Kind {
	gvk := authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview")
	return &api.Kind{
		Hub:      gvk,
		Resource: "selfsubjectaccessreviews", Singular: "selfsubjectaccessreview",
		Verbs:    []string{"create"},
		New:      api.New[authorizationv1.SelfSubjectAccessReview](),
		Views:    api.Serve(gvk),
		Strategy: api.Strategy{Validate: api.Check(validateSelfReview)},
	}
}
