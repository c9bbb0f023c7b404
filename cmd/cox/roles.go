package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coxswain/cox/client"
)

// dnsUser is who the cluster DNS reads as: upstream has no user for a DNS that
// is part of the node.
const dnsUser = "system:cox:dns"

// ownObjects writes what cox's own parts need beyond upstream's defaults: the
// rights of the cluster DNS, and the Service under which it is found.
func (cp *controlPlane) ownObjects(ctx context.Context) error {
	if err := cp.writeSettings(ctx); err != nil {
		return err
	}
	if err := cp.metricsReader(ctx); err != nil {
		return err
	}
	meta := metav1.ObjectMeta{Name: dnsUser, Labels: map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}}
	read := []string{"list", "watch"}
	_, err := client.ClusterRoles.In(cp.root, "").Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"services", "namespaces"}, Verbs: read},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: read},
	}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("role of the cluster DNS: %w", err)
	}
	_, err = client.ClusterRoleBindings.In(cp.root, "").Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: *meta.DeepCopy(),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: dnsUser},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: dnsUser}},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("role binding of the cluster DNS: %w", err)
	}
	if _, err := client.Services.In(cp.root, "kube-system").Get(ctx, "kube-dns"); !apierrors.IsNotFound(err) {
		return err // there already: creating it again would find its address taken
	}
	// Every node answers this address itself, so no proxy may translate it.
	_, err = client.Services.In(cp.root, "kube-system").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Namespace: "kube-system", Labels: map[string]string{
			"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
			"service.kubernetes.io/service-proxy-name": "cox-dns",
		}},
		Spec: corev1.ServiceSpec{ClusterIP: cp.cfg.ClusterDNS, Ports: []corev1.ServicePort{
			{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
			{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
		}},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("service of the cluster DNS: %w", err)
	}
	return nil
}
