package authorization

import (
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/yaml"
)

// Reviews are refused for what nobody could answer.
func TestValidateReviews(t *testing.T) {
	const requirements = "spec.resourceAttributes.labelSelector.requirements[0]"
	ask := func(attributes string) string { return `{spec: {user: u, resourceAttributes: {` + attributes + `}}}` }
	for name, tc := range map[string]struct{ review, want string }{
		"fine":             {ask(`verb: get`), ""},
		"neither":          {`{spec: {user: u}}`, "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		"both":             {`{spec: {user: u, resourceAttributes: {}, nonResourceAttributes: {path: /x}}}`, `spec.nonResourceAttributes: Invalid value: {"path":"/x"}: cannot be specified in combination with resourceAttributes`},
		"nobody":           {`{spec: {resourceAttributes: {}}}`, `spec.user: Invalid value: "": at least one of user or group must be specified`},
		"metadata":         {`{metadata: {name: x}, spec: {user: u, resourceAttributes: {}}}`, `metadata: Invalid value: {"name":"x"}: must be empty`},
		"two selectors":    {ask(`labelSelector: {rawSelector: a, requirements: [{key: a, operator: Exists}]}`), `spec.resourceAttributes.labelSelector.rawSelector: Invalid value: "a": may not specified at the same time as requirements`},
		"empty selector":   {ask(`fieldSelector: {}`), "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"},
		"no values":        {ask(`labelSelector: {requirements: [{key: a, operator: In}]}`), requirements + ".values: Required value: must be specified when `operator` is 'In' or 'NotIn'"},
		"values":           {ask(`labelSelector: {requirements: [{key: a, operator: Exists, values: [b]}]}`), requirements + ".values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"},
		"no field":         {ask(`fieldSelector: {requirements: [{operator: Exists}]}`), "spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified"},
		"unknown operator": {ask(`fieldSelector: {requirements: [{key: a, operator: Near}]}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var r authorizationv1.SubjectAccessReview
			if err := yaml.UnmarshalStrict([]byte(tc.review), &r); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := validateReview(&r).ToAggregate(); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
	local := &authorizationv1.LocalSubjectAccessReview{}
	local.Namespace = "here"
	local.Spec = authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "there"}}
	if errs := validateLocalReview(local); len(errs) != 1 || errs[0].Error() != `spec.resourceAttributes.namespace: Invalid value: "there": must match metadata.namespace` {
		t.Errorf("elsewhere: %v", errs)
	}
}
