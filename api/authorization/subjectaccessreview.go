package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/coxswain/cox/api"
)

func subjectAccessReviewKind() *api.Kind {
	gvk := authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview")
	return &api.Kind{
		Hub:      gvk,
		Resource: "subjectaccessreviews", Singular: "subjectaccessreview",
		Verbs:    []string{"create"},
		New:      api.New[authorizationv1.SubjectAccessReview](),
		Views:    api.Serve(gvk),
		Strategy: api.Strategy{Validate: api.Check(validateReview)},
	}
}
