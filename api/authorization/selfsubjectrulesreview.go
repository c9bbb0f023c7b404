package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/coxswain/cox/api"
)

func selfSubjectRulesReviewKind() *api.Kind {
	gvk := authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview")
	return &api.Kind{
		Hub:      gvk,
		Resource: "selfsubjectrulesreviews", Singular: "selfsubjectrulesreview",
		Verbs: []string{"create"},
		New:   api.New[authorizationv1.SelfSubjectRulesReview](),
		Views: api.Serve(gvk),
	}
}
