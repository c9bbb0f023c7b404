package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/coxswain/cox/api"
)

func tokenReviewKind() *api.Kind {
	gvk := authenticationv1.SchemeGroupVersion.WithKind("TokenReview")
	return &api.Kind{
		Hub:      gvk,
		Resource: "tokenreviews", Singular: "tokenreview",
		Verbs: []string{"create"},
		New:   api.New[authenticationv1.TokenReview](),
		Views: api.Serve(gvk),
	}
}
