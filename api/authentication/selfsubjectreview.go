package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/coxswain/cox/api"
)

func selfSubjectReviewKind() *api.Kind {
	gvk := authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview")
	return &api.Kind{
		Hub:      gvk,
		Resource: "selfsubjectreviews", Singular: "selfsubjectreview",
		Verbs: []string{"create"},
		New:   api.New[authenticationv1.SelfSubjectReview](),
		Views: api.Serve(gvk),
	}
}
