package chain

import (
	"strings"
	"testing"
)

// FuzzConfig: a configuration is refused or taken, conditions included.
func FuzzConfig(f *testing.F) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n"
	f.Add(head + "authorizers: [{type: RBAC, name: a}, {type: Node, name: b}]")
	f.Add(head + "authorizers: [{type: Webhook, name: a, webhook: {timeout: 3s, failurePolicy: Deny, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, connectionInfo: {type: InClusterConfig}, matchConditions: [{expression: 'request.user == \"a\" && has(request.resourceAttributes)'}]}}]")
	f.Add(head + "authorizers: [{type: Sideways}]")
	f.Add("x")
	f.Fuzz(func(_ *testing.T, text string) {
		if strings.Contains(text, "kubeConfigFile") { // of files
			return
		}
		in, err := parse([]byte(text))
		if err != nil {
			return
		}
		if l, err := (&Chain{}).build(in); err == nil {
			for _, t := range l.targets {
				t.Close()
			}
		}
	})
}
