package controllers_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
)

// Every namespace has its account and the authority of the API server, and gets
// them again when somebody has deleted or spoilt them.
func TestNamespacesAreFurnished(t *testing.T) {
	w := newWorld(t)
	ns := w.namespace("furnished") // which waits for the account
	authority := func(m *corev1.ConfigMap) bool { return m != nil && m.Data["ca.crt"] == string(w.bundle.CA.PEM()) }
	object(w, client.ConfigMaps, ns, "kube-root-ca.crt", "published", authority)

	account, err := client.ServiceAccounts.In(w.root, ns).Get(t.Context(), "default")
	w.must(err)
	w.must(client.ServiceAccounts.In(w.root, ns).Delete(t.Context(), "default", client.Options{}))
	object(w, client.ServiceAccounts, ns, "default", "made again", func(sa *corev1.ServiceAccount) bool { return sa != nil && sa.UID != account.UID })

	published, err := client.ConfigMaps.In(w.root, ns).Patch(t.Context(), "kube-root-ca.crt", types.MergePatchType, []byte(`{"metadata":{"labels":{"users":"own"}},"data":{"ca.crt":"x","more":"y"}}`))
	w.must(err)
	object(w, client.ConfigMaps, ns, "kube-root-ca.crt", "corrected", func(m *corev1.ConfigMap) bool {
		return authority(m) && len(m.Data) == 1 && m.UID == published.UID && m.Labels["users"] == "own"
	})
	w.must(client.ConfigMaps.In(w.root, ns).Delete(t.Context(), "kube-root-ca.crt", client.Options{}))
	object(w, client.ConfigMaps, ns, "kube-root-ca.crt", "published again", func(m *corev1.ConfigMap) bool { return authority(m) && m.UID != published.UID })

	w.must(client.Namespaces.In(w.root, "").Delete(t.Context(), ns, client.Options{}))
	object(w, client.Namespaces, "", ns, "gone, since nobody furnishes it anew", func(n *corev1.Namespace) bool { return n == nil })
}
