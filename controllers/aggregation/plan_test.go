package aggregation

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func role(name, label string, verbs ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}}
	for _, v := range verbs {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{v}})
	}
	return r
}

func TestRules(t *testing.T) {
	all := role("all", "to-all")
	all.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{"to-all": "true"}}, {MatchLabels: map[string]string{"too": "true"}},
	}}
	for _, tc := range []struct {
		name string
		from []*rbacv1.ClusterRole
		want string
	}{
		{"nothing", []*rbacv1.ClusterRole{all, role("x", "other", "a")}, ""},
		{"by name, each once", []*rbacv1.ClusterRole{role("z", "too", "c", "a"), all, role("b", "to-all", "a", "b")}, "a b c"},
	} {
		var got []string
		for _, r := range Rules(all, tc.from) {
			got = append(got, r.Verbs...)
		}
		if g := strings.Join(got, " "); g != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, g, tc.want)
		}
	}
}
