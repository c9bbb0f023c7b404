package audit

import "testing"

// FuzzPolicy: a policy is refused or decides about every request.
func FuzzPolicy(f *testing.F) {
	f.Add("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, resources: [{group: '', resources: ['pods/*', '*/status']}], verbs: [get]}]", "pods", "status", "/api/v1/pods")
	f.Add("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: None, nonResourceURLs: ['/healthz*', '/a/*/b']}, {level: RequestResponse}]", "", "", "/healthz")
	f.Add("rules: [{level: Sideways}]", "", "", "")
	f.Fuzz(func(_ *testing.T, policy, resource, sub, path string) {
		p, err := ParsePolicy([]byte(policy))
		if err != nil {
			return
		}
		r := &Request{}
		r.Resource, r.Subresource, r.Path = resource, sub, path
		_ = p.decide(r)
	})
}
