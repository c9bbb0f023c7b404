package controllers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/pki"
)

func TestNamespaceEmptiedInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("doomed"), t.Context()
	object(w, client.ConfigMaps, ns, "kube-root-ca.crt", "published", func(m *corev1.ConfigMap) bool {
		return m != nil && m.Data["ca.crt"] == string(w.bundle.CA.PEM())
	})
	// What users take away or change comes back.
	_, err := client.ConfigMaps.In(w.root, ns).Mutate(ctx, "kube-root-ca.crt", "", func(m *corev1.ConfigMap) (bool, error) {
		m.Data["ca.crt"] = "wrong"
		return true, nil
	})
	w.must(err)
	object(w, client.ConfigMaps, ns, "kube-root-ca.crt", "right again", func(m *corev1.ConfigMap) bool {
		return m != nil && m.Data["ca.crt"] == string(w.bundle.CA.PEM())
	})
	w.must(client.ServiceAccounts.In(w.root, ns).Delete(ctx, "default", client.Options{}))
	object(w, client.ServiceAccounts, ns, "default", "made again", func(sa *corev1.ServiceAccount) bool { return sa != nil })

	_, err = client.Deployments.In(w.root, ns).Create(ctx, deployment(ns, "web", "v1", 2))
	w.must(err)
	object(w, client.Deployments, ns, "web", "complete", complete)
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "held", Finalizers: []string{"example.com/hold"}}}
	_, err = client.ConfigMaps.In(w.root, ns).Create(ctx, held)
	w.must(err)
	w.must(client.Namespaces.In(w.root, "").Delete(ctx, ns, client.Options{}))
	object(w, client.Namespaces, "", ns, "told what blocks it", func(n *corev1.Namespace) bool {
		if n == nil {
			t.Fatal("the namespace went before its content")
		}
		return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NamespaceCondition) bool {
			return c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue &&
				strings.Contains(c.Message, "example.com/hold in 1 resource instances")
		}) && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NamespaceCondition) bool {
			return c.Type == corev1.NamespaceContentRemaining && c.Status == corev1.ConditionTrue &&
				strings.Contains(c.Message, "configmaps. has 1 resource instances")
		})
	})
	_, err = client.ConfigMaps.In(w.root, ns).Mutate(ctx, "held", "", func(m *corev1.ConfigMap) (bool, error) {
		m.Finalizers = nil
		return true, nil
	})
	w.must(err)
	object(w, client.Namespaces, "", ns, "gone", func(n *corev1.Namespace) bool { return n == nil })
	if left, _, err := client.Pods.In(w.root, ns).List(ctx, client.Options{}); err != nil || len(left) > 0 {
		t.Errorf("pods left: %v %v", left, err)
	}
}

func owned(ns, name string, owners ...metav1.Object) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	for _, o := range owners {
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{
			APIVersion: "v1", Kind: "ConfigMap", Name: o.GetName(), UID: o.GetUID(), BlockOwnerDeletion: ptr.To(true),
		})
	}
	return m
}

func TestGarbageCollection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("gc"), t.Context()
	maps := client.ConfigMaps.In(w.root, ns)
	add := func(m *corev1.ConfigMap) *corev1.ConfigMap {
		t.Helper()
		got, err := maps.Create(ctx, m)
		w.must(err)
		return got
	}
	remove := func(name string, p metav1.DeletionPropagation) {
		t.Helper()
		w.must(maps.Delete(ctx, name, client.Options{PropagationPolicy: &p}))
	}
	gone := func(names ...string) {
		t.Helper()
		eventually(w, client.ConfigMaps, ns, strings.Join(names, " ")+" gone", func(all []*corev1.ConfigMap) bool {
			return !slices.ContainsFunc(all, func(m *corev1.ConfigMap) bool { return slices.Contains(names, m.Name) })
		})
	}
	there := func(name string) *corev1.ConfigMap {
		t.Helper()
		m, err := maps.Get(ctx, name)
		w.must(err)
		return m
	}

	// Background: a chain goes from its top; with a second owner one stays.
	a := add(owned(ns, "a"))
	other := add(owned(ns, "other"))
	b := add(owned(ns, "b", a))
	add(owned(ns, "c", b))
	add(owned(ns, "two", a, other))
	remove("a", metav1.DeletePropagationBackground)
	gone("a", "b", "c")
	object(w, client.ConfigMaps, ns, "two", "with one owner", func(m *corev1.ConfigMap) bool {
		return m != nil && len(m.OwnerReferences) == 1 && m.OwnerReferences[0].UID == other.UID
	})

	// Foreground: the owner waits for its dependents.
	f := add(owned(ns, "f"))
	child := owned(ns, "f1", f)
	child.Finalizers = []string{"example.com/hold"}
	add(child)
	remove("f", metav1.DeletePropagationForeground)
	object(w, client.ConfigMaps, ns, "f1", "being deleted", func(m *corev1.ConfigMap) bool { return m != nil && m.DeletionTimestamp != nil })
	if m := there("f"); m.DeletionTimestamp == nil || !slices.Contains(m.Finalizers, metav1.FinalizerDeleteDependents) {
		t.Errorf("the owner does not wait: %+v", m.ObjectMeta)
	}
	_, err := maps.Mutate(ctx, "f1", "", func(m *corev1.ConfigMap) (bool, error) { m.Finalizers = nil; return true, nil })
	w.must(err)
	gone("f", "f1")

	// Orphan: the dependents stay, without their reference.
	o := add(owned(ns, "o"))
	add(owned(ns, "o1", o))
	remove("o", metav1.DeletePropagationOrphan)
	gone("o")
	if m := there("o1"); len(m.OwnerReferences) != 0 {
		t.Errorf("the orphan keeps its reference: %+v", m.OwnerReferences)
	}

	// An owner that has never existed, and one in another namespace.
	add(owned(ns, "lost", &metav1.ObjectMeta{Name: "never", UID: "00000000-0000-0000-0000-000000000000"}))
	gone("lost")
	elsewhere := w.namespace("elsewhere")
	x, err := client.ConfigMaps.In(w.root, elsewhere).Create(ctx, owned(elsewhere, "x"))
	w.must(err)
	add(owned(ns, "crossed", x))
	gone("crossed")
	eventually(w, client.Events, ns, "told of the wrong namespace", func(evs []*corev1.Event) bool {
		return slices.ContainsFunc(evs, func(e *corev1.Event) bool {
			return e.Reason == "OwnerRefInvalidNamespace" && e.InvolvedObject.Name == "crossed"
		})
	})
	if _, err := client.ConfigMaps.In(w.root, elsewhere).Get(ctx, "x"); err != nil {
		t.Error(err)
	}

	// A circle, in the foreground.
	p := add(owned(ns, "p"))
	q := add(owned(ns, "q", p))
	_, err = maps.Mutate(ctx, "p", "", func(m *corev1.ConfigMap) (bool, error) {
		m.OwnerReferences = owned(ns, "", q).OwnerReferences
		return true, nil
	})
	w.must(err)
	remove("p", metav1.DeletePropagationForeground)
	gone("p", "q")

	// A live object with a cluster-scoped owner that goes.
	role, err := client.ClusterRoles.In(w.root, "").Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "gc-owner"}})
	w.must(err)
	m := owned(ns, "of-role")
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Name: role.Name, UID: role.UID}}
	add(m)
	w.must(client.ClusterRoles.In(w.root, "").Delete(ctx, role.Name, client.Options{}))
	gone("of-role")
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// beat makes a node ready and renews its lease, as a kubelet does.
func (w *world) beat(name string) {
	w.t.Helper()
	ctx, now := w.t.Context(), metav1.Now()
	_, err := client.Nodes.In(w.root, "").Mutate(ctx, name, "status", func(n *corev1.Node) (bool, error) {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now}}
		return true, nil
	})
	w.must(err)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: ptr.To(metav1.NowMicro()), LeaseDurationSeconds: ptr.To[int32](40)}
	_, err = client.Leases.In(w.root, corev1.NamespaceNodeLease).Create(ctx, lease)
	if apierrors.IsAlreadyExists(err) {
		_, err = client.Leases.In(w.root, corev1.NamespaceNodeLease).Mutate(ctx, name, "", func(l *coordinationv1.Lease) (bool, error) {
			l.Spec.RenewTime = ptr.To(metav1.NowMicro())
			return true, nil
		})
	}
	w.must(err)
}

func taint(n *corev1.Node, key string, effect corev1.TaintEffect) bool {
	return n != nil && slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect })
}

func TestNodeFallsSilentAndReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *manager.Config) {
		// Short enough for a test, long enough for the living node to beat.
		c.Nodes.MonitorGrace, c.Nodes.StartupGrace, c.Nodes.EvictionInterval = 2*time.Second, 2*time.Second, time.Millisecond
	})
	ns, ctx := w.namespace("nodes"), t.Context()
	nodes := client.Nodes.In(w.root, "")
	for _, name := range []string{"live-1", "live-2", "dead"} {
		_, err := nodes.Create(ctx, node(name))
		w.must(err)
		w.beat(name)
	}
	seen := map[string]bool{}
	for _, n := range eventually(w, client.Nodes, "", "with a pod network each, ready, without taints", func(all []*corev1.Node) bool {
		return !slices.ContainsFunc(all, func(n *corev1.Node) bool { return n.Spec.PodCIDR == "" || len(n.Spec.Taints) > 0 })
	}) {
		seen[n.Spec.PodCIDR] = true
	}
	if len(seen) != 3 {
		t.Errorf("pod networks %v, want three different ones", seen)
	}
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				w.beat("live-1")
				w.beat("live-2")
			}
		}
	}()
	defer func() { close(stop); <-stopped }()

	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "on-dead", Labels: map[string]string{"app": "x"}}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "v1"}}
	p.Spec.NodeName = "dead"
	p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](2)}}
	stays := p.DeepCopy()
	stays.Name, stays.Spec.Tolerations[0].TolerationSeconds = "stays", nil
	for _, p := range []*corev1.Pod{p, stays} {
		_, err := client.Pods.In(w.root, ns).Create(ctx, p)
		w.must(err)
	}
	object(w, client.Nodes, "", "dead", "unreachable", func(n *corev1.Node) bool {
		return taint(n, corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule) && taint(n, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute) &&
			n.Status.Conditions[0].Status == corev1.ConditionUnknown && n.Status.Conditions[0].Reason == "NodeStatusUnknown"
	})
	object(w, client.Pods, ns, "stays", "not ready any more", func(p *corev1.Pod) bool { return p != nil && p.Status.PodIP != "" && !pods.Ready(p) })
	object(w, client.Pods, ns, "on-dead", "evicted", func(p *corev1.Pod) bool { return p == nil })
	w.beat("dead")
	object(w, client.Nodes, "", "dead", "back", func(n *corev1.Node) bool { return n != nil && len(n.Spec.Taints) == 0 })
	_, err := nodes.Mutate(ctx, "live-1", "", func(n *corev1.Node) (bool, error) { n.Spec.Unschedulable = true; return true, nil })
	w.must(err)
	object(w, client.Nodes, "", "live-1", "cordoned", func(n *corev1.Node) bool {
		return taint(n, corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	})
	if _, err := client.Pods.In(w.root, ns).Get(ctx, "stays"); err != nil {
		t.Errorf("a pod that tolerates the taint for ever: %v", err)
	}
}

func TestCertificateForANode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	_, err := client.ClusterRoleBindings.In(w.root, "").Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "approve"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:bootstrappers"}},
	})
	w.must(err)
	_, err = client.ClusterRoleBindings.In(w.root, "").Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "ask"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-bootstrapper"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:bootstrappers"}},
	})
	w.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	ask := func(name, cn string, usages ...certificatesv1.KeyUsage) {
		t.Helper()
		request, err := pki.NewCSR(key, pki.Spec{CommonName: cn, Organizations: []string{"system:nodes"}})
		w.must(err)
		joining := client.As(w.server.Door(), client.User{Name: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers", "system:authenticated"}})
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}
		r.Spec = certificatesv1.CertificateSigningRequestSpec{Request: request, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, Usages: usages}
		eventually(w, client.ClusterRoleBindings, "", "usable", func([]*rbacv1.ClusterRoleBinding) bool {
			_, err = client.CertificateSigningRequests.In(joining, "").Create(ctx, r.DeepCopy())
			return err == nil
		})
	}
	ask("node-1", "system:node:node-1", certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth)
	got := object(w, client.CertificateSigningRequests, "", "node-1", "signed", func(r *certificatesv1.CertificateSigningRequest) bool {
		return r != nil && len(r.Status.Certificate) > 0
	})
	certs, err := pki.ParseCertificates(got.Status.Certificate)
	w.must(err)
	if certs[0].Subject.CommonName != "system:node:node-1" || certs[0].CheckSignatureFrom(w.bundle.CA.Cert) != nil {
		t.Errorf("certificate of %v", certs[0].Subject)
	}
	// Not a node's name: left for a human, and refused by the signer if one
	// approves it.
	ask("fraud", "admin", certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth)
	r, err := client.CertificateSigningRequests.In(w.root, "").Get(ctx, "fraud")
	w.must(err)
	r = r.DeepCopy()
	r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Mistake"}}
	_, err = client.CertificateSigningRequests.In(w.root, "").Update(ctx, r, client.Sub("approval"))
	w.must(err)
	object(w, client.CertificateSigningRequests, "", "fraud", "refused", func(r *certificatesv1.CertificateSigningRequest) bool {
		return r != nil && len(r.Status.Certificate) == 0 && slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == certificatesv1.CertificateFailed && c.Reason == "SignerValidationFailure"
		})
	})
}

func TestRecreateWaitsForTheOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("recreate"), t.Context()
	d := deployment(ns, "web", "v1", 2)
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	_, err := client.Deployments.In(w.root, ns).Create(ctx, d)
	w.must(err)
	object(w, client.Deployments, ns, "web", "complete", complete)
	_, err = client.Deployments.In(w.root, ns).Mutate(ctx, "web", "", func(d *appsv1.Deployment) (bool, error) {
		d.Spec.Template.Spec.Containers[0].Image = "v2"
		return true, nil
	})
	w.must(err)
	object(w, client.Deployments, ns, "web", "complete", func(d *appsv1.Deployment) bool {
		return complete(d) && d.Annotations["deployment.kubernetes.io/revision"] == "2"
	})
	eventually(w, client.Pods, ns, "two of v2", func(ps []*corev1.Pod) bool { return images(ps) == "v2 v2" })
}
