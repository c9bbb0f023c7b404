package apiserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/coxswain/cox/client"
)

// The ways of acting as another, in the order in which they are tried, with
// the permissions that each takes.
func TestImpersonations(t *testing.T) {
	bob := client.User{Name: "bob"}
	agent := client.User{Name: "system:serviceaccount:d:agent", Extra: map[string][]string{nodeOfToken: {"n1"}}}
	const signed = "system:authenticated"
	for name, tc := range map[string]struct {
		user, want client.User
		ways       []string
	}{
		"a user": {bob, client.User{Name: "joe"}, []string{
			"user-info as joe [" + signed + "]: users.authentication.k8s.io /joe",
			"legacy as joe [" + signed + "]: users /joe",
		}},
		"all of a user": {bob, client.User{Name: "joe", UID: "7", Groups: []string{"b", "a"}, Extra: map[string][]string{"y.io/a": {"2", "1"}, "x.io/a": {"3"}}}, []string{
			"user-info as joe [b a " + signed + "]: users.authentication.k8s.io /joe, uids.authentication.k8s.io /7, groups.authentication.k8s.io /b, groups.authentication.k8s.io /a, " +
				"userextras/x.io/a.authentication.k8s.io /3, userextras/y.io/a.authentication.k8s.io /2, userextras/y.io/a.authentication.k8s.io /1",
			"legacy as joe [b a " + signed + "]: users /joe, uids.authentication.k8s.io /7, groups /b, groups /a, " +
				"userextras/x.io/a.authentication.k8s.io /3, userextras/y.io/a.authentication.k8s.io /2, userextras/y.io/a.authentication.k8s.io /1",
		}},
		"nobody": {bob, client.User{Name: "system:anonymous"}, []string{
			"user-info as system:anonymous [system:unauthenticated]: users.authentication.k8s.io /system:anonymous",
			"legacy as system:anonymous [system:unauthenticated]: users /system:anonymous",
		}},
		"nobody, in a group": {bob, client.User{Name: "system:anonymous", Groups: []string{signed}}, []string{
			"user-info as system:anonymous [" + signed + " system:unauthenticated]: users.authentication.k8s.io /system:anonymous, groups.authentication.k8s.io /" + signed,
			"legacy as system:anonymous [" + signed + " system:unauthenticated]: users /system:anonymous, groups /" + signed,
		}},
		"a service account": {bob, client.User{Name: "system:serviceaccount:ns:sa"}, []string{
			"serviceaccount as system:serviceaccount:ns:sa [system:serviceaccounts system:serviceaccounts:ns " + signed + "]: serviceaccounts.authentication.k8s.io ns/sa",
			"legacy as system:serviceaccount:ns:sa [system:serviceaccounts system:serviceaccounts:ns " + signed + "]: serviceaccounts ns/sa",
		}},
		"a service account in a group": {bob, client.User{Name: "system:serviceaccount:ns:sa", Groups: []string{"g"}}, []string{
			"legacy as system:serviceaccount:ns:sa [g " + signed + "]: serviceaccounts ns/sa, groups /g",
		}},
		"no service account": {bob, client.User{Name: "system:serviceaccount:ns"}, []string{
			"user-info as system:serviceaccount:ns [" + signed + "]: users.authentication.k8s.io /system:serviceaccount:ns",
			"legacy as system:serviceaccount:ns [" + signed + "]: users /system:serviceaccount:ns",
		}},
		"a node": {bob, client.User{Name: "system:node:n1"}, []string{
			"arbitrary-node as system:node:n1 [system:nodes " + signed + "]: nodes.authentication.k8s.io /n1",
			"legacy as system:node:n1 [" + signed + "]: users /system:node:n1",
		}},
		"one's own node": {agent, client.User{Name: "system:node:n1"}, []string{
			"associated-node as system:node:n1 [system:nodes " + signed + "]: nodes.authentication.k8s.io /*",
			"arbitrary-node as system:node:n1 [system:nodes " + signed + "]: nodes.authentication.k8s.io /n1",
			"legacy as system:node:n1 [" + signed + "]: users /system:node:n1",
		}},
		"another's node": {agent, client.User{Name: "system:node:n2"}, []string{
			"arbitrary-node as system:node:n2 [system:nodes " + signed + "]: nodes.authentication.k8s.io /n2",
			"legacy as system:node:n2 [" + signed + "]: users /system:node:n2",
		}},
		"one's own node, of no service account": {client.User{Name: "bob", Extra: agent.Extra}, client.User{Name: "system:node:n1"}, []string{
			"arbitrary-node as system:node:n1 [system:nodes " + signed + "]: nodes.authentication.k8s.io /n1",
			"legacy as system:node:n1 [" + signed + "]: users /system:node:n1",
		}},
		"no node": {bob, client.User{Name: "system:node:"}, []string{
			"user-info as system:node: [" + signed + "]: users.authentication.k8s.io /system:node:",
			"legacy as system:node: [" + signed + "]: users /system:node:",
		}},
		"everyone's master": {bob, client.User{Name: "joe", Groups: []string{"system:masters"}}, []string{
			"user-info as joe [system:masters " + signed + "]: users.authentication.k8s.io /joe, " +
				"groups.authentication.k8s.io /system:masters never: impersonating the system:masters group is not allowed",
			"legacy as joe [system:masters " + signed + "]: users /joe, groups /system:masters",
		}},
		"an extra of no domain": {bob, client.User{Name: "joe", Extra: map[string][]string{"scopes": {"view"}}}, []string{
			"user-info as joe [" + signed + "]: users.authentication.k8s.io /joe, userextras.authentication.k8s.io / never: " +
				`impersonating an invalid key in extra is not allowed: extra.key: Invalid value: "scopes": must be a domain-prefixed path (such as "acme.io/foo")`,
			"legacy as joe [" + signed + "]: users /joe, userextras/scopes.authentication.k8s.io /view",
		}},
		"a node in a group": {agent, client.User{Name: "system:node:n1", Groups: []string{"g"}}, []string{
			"legacy as system:node:n1 [g " + signed + "]: users /system:node:n1, groups /g",
		}},
	} {
		var got []string
		for _, way := range impersonations(tc.user, tc.want) {
			var whom []string
			for _, a := range way.whom {
				resource := a.Resource
				if a.Subresource != "" {
					resource += "/" + a.Subresource
				}
				if a.Group != "" {
					resource += "." + a.Group
				}
				text := resource + " " + a.Namespace + "/" + a.Name
				if a.never != "" {
					text += " never: " + a.never
				}
				whom = append(whom, text)
			}
			if want := tc.user; way.mode != asAssociatedNode && !reflect.DeepEqual(way.by, want) {
				t.Errorf("%s: %s is asked for %+v", name, way.mode, way.by)
			} else if keys := way.by.Extra[keysOfToken]; way.mode == asAssociatedNode && (len(way.by.Extra) != 1 || !slices.Equal(keys, []string{nodeOfToken})) {
				t.Errorf("%s: %s is asked for %+v", name, way.mode, way.by)
			}
			got = append(got, fmt.Sprintf("%s as %s %v: %s", way.mode, way.as.Name, way.as.Groups, strings.Join(whom, ", ")))
		}
		if !slices.Equal(got, tc.ways) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(tc.ways, "\n"))
		}
	}
}

// What a request asks to do is what it is later authorized for.
func TestRequested(t *testing.T) {
	for line, want := range map[string]string{
		"GET /version":                    "get /version",
		"GET /api/v1":                     "get /api/v1",
		"GET /api/v1/namespaces/a":        "get  v1 namespaces  a a",
		"PUT /api/v1/namespaces/a/status": "update  v1 namespaces status a a",
		"GET /apis/apps/v1/namespaces/a/deployments?fieldSelector=metadata.name%3Dx&labelSelector=k": "list apps v1 deployments  a x metadata.name=x k",
		"GET /api/v1/pods?watch=1":                                         "watch  v1 pods   ",
		"GET /api/v1/namespaces/a/pods?labelSelector=a%20b":                "list  v1 pods  a ",
		"POST /api/v1/namespaces/a/pods/p/exec?command=x":                  "create  v1 pods exec a p",
		"DELETE /api/v1/namespaces/a/pods?fieldSelector=spec.nodeName%3Dn": "deletecollection  v1 pods  a  spec.nodeName=n",
	} {
		method, path, _ := strings.Cut(line, " ")
		a := requested(httptest.NewRequest(method, path, http.NoBody), client.User{Name: "bob"})
		got := a.Verb + " " + a.Path
		if a.IsResource() {
			got = fmt.Sprintf("%s %s %s %s %s %s %s", a.Verb, a.Group, a.Version, a.Resource, a.Subresource, a.Namespace, a.Name)
		}
		if a.FieldSelector != nil {
			got += " " + a.FieldSelector.String()
		}
		if a.LabelSelector != nil {
			got += " " + a.LabelSelector.String()
		}
		if got != want || a.User.Name != "bob" {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
