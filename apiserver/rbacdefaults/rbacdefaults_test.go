package rbacdefaults

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

func defaults(t *testing.T) *Policy {
	t.Helper()
	p, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reference finds upstream's published default roles, outside the tree.
func reference(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		found := filepath.Join(dir, "shared", "reference", "rbac")
		if _, err := os.Stat(found); err == nil {
			return found
		}
	}
	t.Skip("the reference data of Kubernetes 1.36 is not at hand")
	return ""
}

func load[T any](t *testing.T, dir string, files ...string) []T {
	t.Helper()
	var out []T
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		var l struct{ Items []T }
		if err := yaml.Unmarshal(data, &l); err != nil {
			t.Fatal(err)
		}
		out = append(out, l.Items...)
	}
	return out
}

func compare[T client.Object](t *testing.T, want, got []T) {
	t.Helper()
	order := func(a, b T) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	}
	got = slices.DeleteFunc(slices.Clone(got), func(o T) bool { return strings.HasPrefix(o.GetName(), "cox:") })
	for _, o := range want { // the YAML names the kinds of lists' items
		o.GetObjectKind().SetGroupVersionKind(got[0].GetObjectKind().GroupVersionKind())
	}
	slices.SortFunc(want, order)
	slices.SortFunc(got, order)
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("differs from upstream's (-want +got):\n%s", d)
	}
}

func TestSameAsUpstream(t *testing.T) {
	dir := reference(t)
	p := defaults(t)
	compare(t, load[*rbacv1.ClusterRole](t, dir, "cluster-roles.yaml", "controller-roles.yaml"), p.ClusterRoles)
	compare(t, load[*rbacv1.ClusterRoleBinding](t, dir, "cluster-role-bindings.yaml", "controller-role-bindings.yaml"), p.ClusterRoleBindings)
	compare(t, load[*rbacv1.Role](t, dir, "namespace-roles.yaml"), p.Roles)
	compare(t, load[*rbacv1.RoleBinding](t, dir, "namespace-role-bindings.yaml"), p.RoleBindings)
}

// What is there behind gates only is upstream's, and goes with its gate.
func TestGates(t *testing.T) {
	rules := func(p *Policy, role, resource string) string {
		for _, r := range p.ClusterRoles {
			if r.Name != role {
				continue
			}
			for _, rule := range r.Rules {
				if slices.Contains(rule.Resources, resource) {
					return strings.Join(rule.Verbs, ",")
				}
			}
		}
		return ""
	}
	off := defaults(t)
	on, err := Default("ClusterTrustBundle", "PodCertificateRequest")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ role, resource, verbs string }{
		{"system:node", "clustertrustbundles", "get,list,watch"},
		{"system:node", "podcertificaterequests", "create,get,list,watch"},
		{"system:cluster-trust-bundle-discovery", "clustertrustbundles", "get,list,watch"},
		{"system:controller:kube-apiserver-serving-clustertrustbundle-publisher", "signers", "attest"},
		{"system:controller:podcertificaterequestcleaner", "podcertificaterequests", "delete,get,list,watch"},
	} {
		if got := rules(on, c.role, c.resource); got != c.verbs {
			t.Errorf("%s may %q %s, want %s", c.role, got, c.resource, c.verbs)
		}
		if got := rules(off, c.role, c.resource); got != "" {
			t.Errorf("without gates %s may %s %s", c.role, got, c.resource)
		}
	}
	if n := len(on.ClusterRoleBindings) - len(off.ClusterRoleBindings); n != 3 {
		t.Errorf("%d further bindings", n)
	}
}

func TestEveryBindingHasItsRole(t *testing.T) {
	p := defaults(t)
	have := map[string]bool{}
	for _, r := range p.ClusterRoles {
		have[r.Name] = true
	}
	for _, r := range p.Roles {
		have[r.Namespace+"/"+r.Name] = true
	}
	for _, b := range p.ClusterRoleBindings {
		if !have[b.RoleRef.Name] {
			t.Errorf("%s binds %s, which is not there", b.Name, b.RoleRef.Name)
		}
	}
	for _, b := range p.RoleBindings {
		if !have[b.Namespace+"/"+b.RoleRef.Name] {
			t.Errorf("%s/%s binds %s, which is not there", b.Namespace, b.Name, b.RoleRef.Name)
		}
	}
}

func TestAggregate(t *testing.T) {
	p := defaults(t)
	p.Aggregate()
	byName := map[string]*rbacv1.ClusterRole{}
	for _, r := range p.ClusterRoles {
		byName[r.Name] = r
	}
	n := func(name string) int { return len(byName[name].Rules) }
	if n("view") != n("system:aggregate-to-view") || n("edit") != n("system:aggregate-to-edit")+n("view") || n("admin") != n("system:aggregate-to-admin")+n("edit") {
		t.Errorf("view %d, edit %d, admin %d rules", n("view"), n("edit"), n("admin"))
	}
	if !sameRule(&byName["admin"].Rules[0], &byName["edit"].Rules[0]) {
		t.Error("admin does not begin with edit's rules, as upstream's does")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"  get core pods", "cluster-role", "cluster-role a flies:b", "role x", "binding a b c what:d", "cluster-role a\n  get core", "nonsense a b",
		"cluster-binding a b user:c\n  get core pods",
	} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// writes counts the writes of a door.
func writes(d *doortest.Door) *[]string {
	var out []string
	var mu sync.Mutex
	d.Before = func(req *client.Request) error {
		mu.Lock()
		defer mu.Unlock()
		if req.Verb != client.Get && req.Verb != client.List {
			out = append(out, string(req.Verb)+" "+req.Resource.Resource)
		}
		return nil
	}
	return &out
}

func TestReconcile(t *testing.T) {
	ctx := context.Background()
	var d doortest.Door
	p := defaults(t)
	p.Aggregate()
	rv, err := Reconcile(ctx, &d, p)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range rv {
		if n == 0 {
			t.Errorf("no revision for kind %d", i)
		}
	}
	doortest.Put(&d, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "another-kind"}})
	done := writes(&d)
	if again, err := Reconcile(ctx, &d, p); err != nil || len(*done) > 0 || again != rv {
		t.Errorf("the second run wrote %v, %v and reports revisions %v, not %v", *done, err, again, rv)
	}
	get := func(name string) *rbacv1.ClusterRole {
		r, err := client.ClusterRoles.In(&d, "").Get(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		return r.DeepCopy()
	}
	// What a user took away comes back, what he added stays.
	node := get("system:node-proxier")
	all := len(node.Rules)
	node.Rules = append(node.Rules[1:], rbacv1.PolicyRule{Verbs: []string{"fly"}, APIGroups: []string{"x"}, Resources: []string{"y"}})
	node.Labels = map[string]string{"mine": "yes"}
	doortest.Put(&d, client.ClusterRoles, node)
	// One that is not to be updated is left alone.
	kept := get("system:kube-dns")
	kept.Annotations["rbac.authorization.kubernetes.io/autoupdate"] = "false"
	kept.Rules = nil
	doortest.Put(&d, client.ClusterRoles, kept)
	// A binding to another role cannot be changed: it is made anew.
	b, err := client.ClusterRoleBindings.In(&d, "").Get(ctx, "system:discovery")
	if err != nil {
		t.Fatal(err)
	}
	b = b.DeepCopy()
	b.RoleRef.Name = "cluster-admin"
	doortest.Put(&d, client.ClusterRoleBindings, b)
	// Subjects are added, not taken away.
	m, _ := client.ClusterRoleBindings.In(&d, "").Get(ctx, "cluster-admin")
	m = m.DeepCopy()
	m.Subjects = []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "boss"}}
	doortest.Put(&d, client.ClusterRoleBindings, m)

	*done = nil
	if _, err := Reconcile(ctx, &d, p); err != nil {
		t.Fatal(err)
	}
	slices.Sort(*done)
	want := []string{"create clusterrolebindings", "delete clusterrolebindings", "update clusterrolebindings", "update clusterroles"}
	if !slices.Equal(*done, want) {
		t.Errorf("wrote %v, want %v", *done, want)
	}
	node = get("system:node-proxier")
	if len(node.Rules) < all+1 || node.Labels["mine"] != "yes" || node.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" {
		t.Errorf("got %d rules, labels %v", len(node.Rules), node.Labels)
	}
	if len(get("system:kube-dns").Rules) != 0 {
		t.Error("an object with autoupdate=false was changed")
	}
	if b, _ := client.ClusterRoleBindings.In(&d, "").Get(ctx, "system:discovery"); b.RoleRef.Name != "system:discovery" {
		t.Error("the binding still gives another role")
	}
	if m, _ := client.ClusterRoleBindings.In(&d, "").Get(ctx, "cluster-admin"); len(m.Subjects) != 2 {
		t.Errorf("subjects %v", m.Subjects)
	}
}

func TestReconcileMakesNamespaces(t *testing.T) {
	var d doortest.Door
	d.Before = func(req *client.Request) error {
		if req.Verb == client.Create && req.Namespace != "" {
			_, err := client.Namespaces.In(&d, "").Get(context.Background(), req.Namespace)
			return err
		}
		return nil
	}
	if _, err := Reconcile(context.Background(), &d, defaults(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Namespaces.In(&d, "").Get(context.Background(), "kube-public"); err != nil {
		t.Error(err)
	}
}

func TestReconcileReportsFailure(t *testing.T) {
	var d doortest.Door
	d.Before = func(req *client.Request) error {
		if req.Verb == client.Create && req.Resource.Resource == "clusterroles" {
			return apierrors.NewInternalError(os.ErrDeadlineExceeded)
		}
		return nil
	}
	if _, err := Reconcile(context.Background(), &d, defaults(t)); err == nil || !strings.Contains(err.Error(), "default ClusterRole") {
		t.Errorf("got %v", err)
	}
}
