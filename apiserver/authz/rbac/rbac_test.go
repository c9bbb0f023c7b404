package rbac

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

func named(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

func words(s string) []string { return strings.Split(s, ",") }

func rule(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: words(verbs), APIGroups: words(groups), Resources: words(resources), ResourceNames: names}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: name}
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}
}

func account(ns, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "ServiceAccount", Namespace: ns, Name: name}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

// start returns an authorizer that follows a door.
func start(t *testing.T, d *doortest.Door) *Authorizer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := New()
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx, d) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := a.Synced(ctx); err != nil {
		t.Fatal(err)
	}
	return a
}

func seed(d *doortest.Door) {
	doortest.Put(d, client.ClusterRoles, &rbacv1.ClusterRole{ObjectMeta: named("", "reader"), Rules: []rbacv1.PolicyRule{
		rule("get,list", ",apps", "pods,pods/log,deployments"), rule("get", "", "secrets", "one", "two"), rule("*", "*", "*/scale"),
		{Verbs: words("get"), NonResourceURLs: words("/healthz,/metrics/*")}}})
	doortest.Put(d, client.ClusterRoles, &rbacv1.ClusterRole{ObjectMeta: named("", "all"), Rules: []rbacv1.PolicyRule{rule("*", "*", "*")}})
	doortest.Put(d, client.Roles, &rbacv1.Role{ObjectMeta: named("ns", "writer"), Rules: []rbacv1.PolicyRule{rule("create", "", "configmaps")}})
	doortest.Put(d, client.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{ObjectMeta: named("", "readers"), RoleRef: ref("ClusterRole", "reader"),
		Subjects: []rbacv1.Subject{group("devs"), account("ns", "bot")}})
	doortest.Put(d, client.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{ObjectMeta: named("", "dangling"), RoleRef: ref("ClusterRole", "lost"), Subjects: []rbacv1.Subject{user("eve")}})
	doortest.Put(d, client.RoleBindings, &rbacv1.RoleBinding{ObjectMeta: named("ns", "writers"), RoleRef: ref("Role", "writer"), Subjects: []rbacv1.Subject{user("ann"), account("", "robot")}})
	doortest.Put(d, client.RoleBindings, &rbacv1.RoleBinding{ObjectMeta: named("ns", "owners"), RoleRef: ref("ClusterRole", "all"), Subjects: []rbacv1.Subject{user("joe")}})
	doortest.Put(d, client.RoleBindings, &rbacv1.RoleBinding{ObjectMeta: named("other", "lost"), RoleRef: ref("Role", "writer"), Subjects: []rbacv1.Subject{user("ann")}})
}

func TestAuthorize(t *testing.T) {
	var d doortest.Door
	seed(&d)
	a := start(t, &d)
	dev := client.User{Name: "dan", Groups: []string{"devs"}}
	ann, joe, eve := client.User{Name: "ann"}, client.User{Name: "joe"}, client.User{Name: "eve"}
	for _, tc := range []struct {
		name   string
		at     authz.Attributes
		allow  bool
		reason string
	}{
		{"group", authz.Attributes{User: dev, Verb: "get", Resource: "pods", Namespace: "x", Name: "p"}, true,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`},
		{"other verb", authz.Attributes{User: dev, Verb: "delete", Resource: "pods", Namespace: "x"}, false, ""},
		{"other group", authz.Attributes{User: dev, Verb: "get", Group: "batch", Resource: "pods"}, false, ""},
		{"second group", authz.Attributes{User: dev, Verb: "list", Group: "apps", Resource: "deployments"}, true,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`},
		{"subresource named", authz.Attributes{User: dev, Verb: "get", Resource: "pods", Subresource: "log"}, true,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`},
		{"subresource not named", authz.Attributes{User: dev, Verb: "get", Resource: "pods", Subresource: "exec"}, false, ""},
		{"any scale", authz.Attributes{User: dev, Verb: "update", Group: "x.io", Resource: "things", Subresource: "scale"}, true,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`},
		{"named", authz.Attributes{User: dev, Verb: "get", Resource: "secrets", Name: "two", Namespace: "y"}, true,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`},
		{"another name", authz.Attributes{User: dev, Verb: "get", Resource: "secrets", Name: "three"}, false, ""},
		{"no name", authz.Attributes{User: dev, Verb: "get", Resource: "secrets"}, false, ""},
		{"path", authz.Attributes{User: dev, Verb: "get", Path: "/healthz"}, true,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`},
		{"path below", authz.Attributes{User: dev, Verb: "get", Path: "/metrics/slis"}, true,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "devs"`},
		{"path beside", authz.Attributes{User: dev, Verb: "get", Path: "/healthz2"}, false, ""},
		{"account", authz.Attributes{User: client.ServiceAccountUser("ns", "bot"), Verb: "get", Resource: "pods"}, true,
			`RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to ServiceAccount "bot/ns"`},
		{"account of the binding's namespace", authz.Attributes{User: client.ServiceAccountUser("ns", "robot"), Verb: "create", Resource: "configmaps", Namespace: "ns"}, true,
			`RBAC: allowed by RoleBinding "writers/ns" of Role "writer" to ServiceAccount "robot/ns"`},
		{"role", authz.Attributes{User: ann, Verb: "create", Resource: "configmaps", Namespace: "ns"}, true,
			`RBAC: allowed by RoleBinding "writers/ns" of Role "writer" to User "ann"`},
		{"role elsewhere", authz.Attributes{User: ann, Verb: "create", Resource: "configmaps", Namespace: "elsewhere"}, false, ""},
		{"role for the cluster", authz.Attributes{User: ann, Verb: "create", Resource: "configmaps"}, false, ""},
		{"role of another namespace", authz.Attributes{User: ann, Verb: "create", Resource: "configmaps", Namespace: "other"}, false,
			`RBAC: role.rbac.authorization.k8s.io "writer" not found`},
		{"cluster role in a namespace", authz.Attributes{User: joe, Verb: "delete", Resource: "pods", Namespace: "ns"}, true,
			`RBAC: allowed by RoleBinding "owners/ns" of ClusterRole "all" to User "joe"`},
		{"cluster role in a namespace, for the cluster", authz.Attributes{User: joe, Verb: "delete", Resource: "nodes"}, false, ""},
		{"lost role", authz.Attributes{User: eve, Verb: "get", Resource: "pods"}, false, `RBAC: clusterrole.rbac.authorization.k8s.io "lost" not found`},
		{"user that is named like a group", authz.Attributes{User: client.User{Name: "devs"}, Verb: "get", Resource: "pods"}, false, ""},
		{"group that is named like a user", authz.Attributes{User: client.User{Name: "x", Groups: []string{"joe"}}, Verb: "get", Resource: "pods", Namespace: "ns"}, false, ""},
	} {
		dec, reason, err := a.Authorize(context.Background(), &tc.at)
		if err != nil || (dec == authz.Allow) != tc.allow || reason != tc.reason {
			t.Errorf("%s: got %v %q %v, want %v %q", tc.name, dec, reason, err, tc.allow, tc.reason)
		}
	}
}

// After any sequence of changes the index answers as one made afresh.
func TestFollowsChanges(t *testing.T) {
	var d doortest.Door
	seed(&d)
	a := start(t, &d)
	ann := authz.Attributes{User: client.User{Name: "ann"}, Verb: "create", Resource: "configmaps", Namespace: "ns"}
	check := func(what string, want bool, rv [4]uint64) {
		t.Helper()
		if err := a.Caught(context.Background(), rv); err != nil {
			t.Fatal(err)
		}
		if dec, _, _ := a.Authorize(context.Background(), &ann); (dec == authz.Allow) != want {
			t.Errorf("%s: got %v, want %v", what, dec, want)
		}
	}
	rv := func(o client.Object) uint64 { n, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64); return n }
	check("before", true, [4]uint64{})
	b := doortest.Put(&d, client.RoleBindings, &rbacv1.RoleBinding{ObjectMeta: named("ns", "writers"), RoleRef: ref("Role", "writer"), Subjects: []rbacv1.Subject{user("bob")}})
	check("subject gone", false, [4]uint64{3: rv(b)})
	b = doortest.Put(&d, client.RoleBindings, &rbacv1.RoleBinding{ObjectMeta: named("ns", "second"), RoleRef: ref("Role", "writer"), Subjects: []rbacv1.Subject{user("ann"), user("ann")}})
	check("second binding", true, [4]uint64{3: rv(b)})
	r := doortest.Put(&d, client.Roles, &rbacv1.Role{ObjectMeta: named("ns", "writer")})
	check("role emptied", false, [4]uint64{2: rv(r)})
	r = doortest.Put(&d, client.Roles, &rbacv1.Role{ObjectMeta: named("ns", "writer"), Rules: []rbacv1.PolicyRule{rule("create", "*", "*")}})
	check("role filled", true, [4]uint64{2: rv(r)})
	if err := client.RoleBindings.In(&d, "ns").Delete(context.Background(), "second", client.Options{}); err != nil {
		t.Fatal(err)
	}
	check("binding deleted", false, [4]uint64{3: rv(r) + 1})
}

func TestEmptyScopesAreDropped(t *testing.T) {
	x := newIndex()
	for i := range 10 {
		ns := fmt.Sprint(i)
		role := &rbacv1.Role{ObjectMeta: named(ns, "r")}
		b := &rbacv1.RoleBinding{ObjectMeta: named(ns, "b"), RoleRef: ref("Role", "r"), Subjects: []rbacv1.Subject{user("u")}}
		x.put(role)
		x.put(b)
		x.remove(b)
		x.remove(role)
	}
	if len(x.scopes) != 1 {
		t.Errorf("%d scopes are left", len(x.scopes))
	}
}

func TestWaitsForTheFirstList(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dec, _, err := New().Authorize(ctx, &authz.Attributes{User: client.User{Name: "x"}, Verb: "get", Resource: "pods"})
	if dec != authz.NoOpinion || err == nil {
		t.Errorf("got %v %v before anything was read", dec, err)
	}
}

func TestRulesFor(t *testing.T) {
	var d doortest.Door
	seed(&d)
	u := authz.Union(authz.Masters(), start(t, &d)).(authz.RuleResolver)
	res, paths, incomplete, err := u.RulesFor(context.Background(), client.User{Name: "joe", Groups: []string{"devs"}}, "ns")
	if err != nil || incomplete || len(res) != 4 || len(paths) != 1 || !slices.Contains(paths[0].Paths, "/healthz") {
		t.Errorf("got %v %v %v %v", res, paths, incomplete, err)
	}
	if _, _, incomplete, err := u.RulesFor(context.Background(), client.User{Name: "eve"}, ""); err == nil || !incomplete {
		t.Error("a lost role went unnoticed")
	}
	res, paths, _, _ = u.RulesFor(context.Background(), client.User{Name: "root", Groups: []string{"system:masters"}}, "")
	if len(res) != 0 || len(paths) != 0 { // cluster-admin, which names them, is not there
		t.Errorf("masters: %v %v", res, paths)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	x := newIndex()
	x.put(&rbacv1.ClusterRole{ObjectMeta: named("", "r"), Rules: []rbacv1.PolicyRule{rule("get,list,watch", "", "nodes"), rule("get,list,watch", "apps", "deployments"), rule("get,list,watch,update", "", "pods")}})
	for i := range 5000 {
		x.put(&rbacv1.ClusterRoleBinding{ObjectMeta: named("", fmt.Sprint("b", i)), RoleRef: ref("ClusterRole", "r"), Subjects: []rbacv1.Subject{user(fmt.Sprint("u", i))}})
	}
	a := New()
	a.x = x
	for _, c := range a.synced {
		close(c)
	}
	at := &authz.Attributes{User: client.User{Name: "u77", Groups: []string{"system:authenticated", "x"}}, Verb: "update", Resource: "pods", Namespace: "ns"}
	b.ReportAllocs()
	for b.Loop() {
		if dec, _, _ := a.Authorize(context.Background(), at); dec != authz.Allow {
			b.Fatal(dec)
		}
	}
}
