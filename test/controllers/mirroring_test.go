package controllers_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

func TestEndpointsWithoutSelectorAreMirrored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("mirror"), t.Context()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "outside"}}
	svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	_, err := client.Services.In(w.root, ns).Create(ctx, svc)
	w.must(err)
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "outside"}}
	e.Subsets = []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 8080}}}}
	_, err = client.Endpoints.In(w.root, ns).Create(ctx, e)
	w.must(err)
	eventually(w, client.EndpointSlices, ns, "a mirror", func(s []*discoveryv1.EndpointSlice) bool {
		return len(s) == 1 && s[0].Endpoints[0].Addresses[0] == "192.0.2.1" && *s[0].Ports[0].Port == 8080 && s[0].Labels[discoveryv1.LabelServiceName] == "outside"
	})
	_, err = client.Endpoints.In(w.root, ns).Mutate(ctx, "outside", "", func(e *corev1.Endpoints) (bool, error) {
		e.Subsets[0].Addresses[0].IP = "192.0.2.2"
		return true, nil
	})
	w.must(err)
	eventually(w, client.EndpointSlices, ns, "changed", func(s []*discoveryv1.EndpointSlice) bool {
		return len(s) == 1 && s[0].Endpoints[0].Addresses[0] == "192.0.2.2"
	})
	w.must(client.Endpoints.In(w.root, ns).Delete(ctx, "outside", client.Options{}))
	eventually(w, client.EndpointSlices, ns, "gone", func(s []*discoveryv1.EndpointSlice) bool { return len(s) == 0 })
}

func TestClusterRolesGather(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	mine := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "widgets", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}}}
	mine.Rules = []rbacv1.PolicyRule{{APIGroups: []string{"example.com"}, Resources: []string{"widgets"}, Verbs: []string{"get"}}}
	_, err := client.ClusterRoles.In(w.root, "").Create(ctx, mine)
	w.must(err)
	allows := func(want bool) func(*rbacv1.ClusterRole) bool {
		return func(r *rbacv1.ClusterRole) bool {
			found := false
			for _, rule := range r.Rules {
				found = found || len(rule.APIGroups) == 1 && rule.APIGroups[0] == "example.com"
			}
			return found == want && len(r.Rules) > 1
		}
	}
	for _, name := range []string{"view", "edit", "admin"} { // view goes into edit, and that into admin
		object(w, client.ClusterRoles, "", name, "with the widgets", allows(true))
	}
	w.must(client.ClusterRoles.In(w.root, "").Delete(ctx, "widgets", client.Options{}))
	object(w, client.ClusterRoles, "", "admin", "without the widgets", allows(false))
}
