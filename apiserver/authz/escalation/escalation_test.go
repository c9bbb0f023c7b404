package escalation

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/rbac"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func rule(verbs, group, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{group}, Resources: strings.Split(resources, ","), ResourceNames: names}
}

func bind(user, to string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: to},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}}}
}

func TestEscalation(t *testing.T) {
	var d doortest.Door
	doortest.Put(&d, client.ClusterRoles, role("some", rule("get,list", "", "pods"), rule("get", "", "secrets", "one"), rule("update", "apps", "*"), rule("get", "apps", "*/scale"),
		rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics/*"}}))
	doortest.Put(&d, client.ClusterRoles, role("mighty", rule("*", "*", "*")))
	doortest.Put(&d, client.ClusterRoles, role("escalator", rule("escalate", rbacv1.GroupName, "clusterroles", "x"), rule("bind", rbacv1.GroupName, "clusterroles", "mighty")))
	for user, to := range map[string]string{"ann": "some", "esc": "escalator", "all": "mighty"} {
		doortest.Put(&d, client.ClusterRoleBindings, bind(user, to))
	}
	a := rbac.New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx, &d) }()
	defer func() { cancel(); <-done }()
	hooks := Hooks(a, authz.Union(authz.Masters(), a))

	ann, esc := client.User{Name: "ann", Groups: []string{"g"}}, client.User{Name: "esc"}
	masters := client.User{Name: "root", Groups: []string{"system:masters"}}
	aggregating := role("x")
	aggregating.AggregationRule = &rbacv1.AggregationRule{}
	labelled := role("x", rule("delete", "", "pods"))
	labelled.Labels = map[string]string{"a": "b"}
	finalizers := func(n int) *rbacv1.ClusterRole {
		r := role("x", rule("delete", "", "pods"))
		r.Finalizers = make([]string, n)
		return r
	}
	for name, tc := range map[string]struct {
		user     client.User
		obj, old runtime.Object
		text     string
	}{
		"held":                    {ann, role("x", rule("get", "", "pods"), rule("update", "apps", "deployments,deployments/status")), nil, ""},
		"held by name":            {ann, role("x", rule("get", "", "secrets", "one")), nil, ""},
		"held path":               {ann, role("x", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics/a", "/metrics/b/*"}}), nil, ""},
		"held subresource":        {ann, role("x", rule("get", "apps", "deployments/scale")), nil, ""},
		"other verb":              {ann, role("x", rule("get,delete,patch", "", "pods")), nil, "user \"ann\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"patch\"]}"},
		"another name":            {ann, role("x", rule("get", "", "secrets", "one", "two")), nil, `{APIGroups:[""], Resources:["secrets"], ResourceNames:["two"], Verbs:["get"]}`},
		"every name":              {ann, role("x", rule("get", "", "secrets")), nil, `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`},
		"every verb":              {ann, role("x", rule("*", "", "pods")), nil, `Verbs:["*"]`},
		"every group":             {ann, role("x", rule("update", "*", "deployments")), nil, `APIGroups:["*"]`},
		"every resource's scale":  {ann, role("x", rule("get", "", "*/scale")), nil, `Resources:["*/scale"]`},
		"wider path":              {ann, role("x", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"*"}}), nil, `{NonResourceURLs:["*"], Verbs:["get"]}`},
		"masters":                 {masters, role("x", rule("*", "*", "*")), nil, ""},
		"has all":                 {client.User{Name: "all"}, role("x", rule("*", "*", "*")), nil, ""},
		"may escalate":            {esc, role("x", rule("*", "*", "*")), nil, ""},
		"may escalate another":    {esc, role("y", rule("*", "*", "*")), nil, "not currently held"},
		"may not aggregate":       {ann, aggregating, nil, "must have cluster-admin privileges to use the aggregationRule"},
		"aggregates already":      {ann, func() runtime.Object { r := aggregating.DeepCopy(); r.Labels = map[string]string{"a": "b"}; return r }(), aggregating, ""},
		"label of a mighty role":  {ann, labelled, role("x", rule("delete", "", "pods")), "not currently held"},
		"finalizer taken away":    {ann, finalizers(0), finalizers(1), ""},
		"finalizer added":         {ann, finalizers(2), finalizers(1), "not currently held"},
		"deletion":                {ann, nil, role("mighty", rule("*", "*", "*")), ""},
		"binds held":              {ann, bind("x", "some"), nil, ""},
		"binds mighty":            {ann, bind("x", "mighty"), nil, "not currently held"},
		"may bind":                {esc, bind("x", "mighty"), nil, ""},
		"may bind another":        {esc, bind("x", "some"), nil, "not currently held"},
		"binds what is not there": {ann, bind("x", "lost"), nil, `clusterrolebindings.rbac.authorization.k8s.io "lost" not found`},
	} {
		kind := client.ClusterRoles.GroupVersionResource
		if _, ok := tc.obj.(*rbacv1.ClusterRoleBinding); ok {
			kind = client.ClusterRoleBindings.GroupVersionResource
		}
		_, err := hooks[kind.GroupResource()].Begin(ctx, &client.Request{User: tc.user, Resource: kind}, tc.obj, tc.old)
		switch {
		case tc.text == "" && err != nil, tc.text != "" && (err == nil || !strings.Contains(err.Error(), tc.text)):
			t.Errorf("%s: got %v, want %q", name, err, tc.text)
		case strings.Contains(tc.text, "held") && !apierrors.IsForbidden(err):
			t.Errorf("%s: got %v, want 403", name, err)
		}
	}
}
