package plugins

import (
	"context"
	"fmt"
	"net/http"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// clusterTrustBundleAttest lets only those say which anchors a signer has who
// may attest for it (KEP-3257). Bundles of no signer anyone may write who may
// write bundles.
func clusterTrustBundleAttest(d deps) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		b, ok := a.Object.(*certificatesv1beta1.ClusterTrustBundle)
		if !ok || !is(a, client.ClusterTrustBundles.GroupResource(), "") || b.Spec.SignerName == "" {
			return nil
		}
		if old, ok := a.Old.(*certificatesv1beta1.ClusterTrustBundle); ok && equality.Semantic.DeepEqual(b, old) {
			return nil
		}
		if !d.maySigner(ctx, &a.User, "attest", b.Spec.SignerName) {
			return forbid(a, fmt.Sprintf("user not permitted to attest for signerName %q", b.Spec.SignerName))
		}
		return nil
	}}
}

// podRequestSigning lets only those answer a PodCertificateRequest who may sign
// for its signer (KEP-4317). Upstream checks that with the object, so no flag
// switches it off.
func podRequestSigning(d deps) *plugin {
	return &plugin{name: "PodCertificateRequestSigning", ops: ops(admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		r, ok := a.Object.(*certificatesv1beta1.PodCertificateRequest)
		old, ok2 := a.Old.(*certificatesv1beta1.PodCertificateRequest)
		if !ok || !ok2 || !is(a, client.PodCertificateRequests.GroupResource(), "status") || equality.Semantic.DeepEqual(&r.Status, &old.Status) {
			return nil
		}
		if d.maySigner(ctx, &a.User, "sign", old.Spec.SignerName) {
			return nil
		}
		return apierrors.NewInvalid(a.Kind.GroupKind(), a.ShownName(), field.ErrorList{field.Forbidden(field.NewPath("spec", "signerName"),
			fmt.Sprintf("User %q is not permitted to %q for signer %q", a.User.Name, "sign", old.Spec.SignerName))})
	}}
}

// podRequest lets a node ask for certificates of the pods that it runs only. A
// node's knowledge may be newer than what is read here: where it may be, the
// answer is one after which it tries again.
func (r *restriction) podRequest(ctx context.Context) (string, error) {
	req, ok := r.a.Object.(*certificatesv1beta1.PodCertificateRequest)
	if !ok || r.a.Operation != admission.Create || r.a.Subresource != "" {
		return fmt.Sprintf("unexpected operation %s", r.a.Operation), nil
	}
	s := &req.Spec
	if string(s.NodeName) != r.node {
		return fmt.Sprintf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", s.NodeName, r.node), nil
	}
	// Upstream's answer has no reason, only a code (500).
	again := func(format string, args ...any) (string, error) {
		return "", &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: fmt.Errorf(format, args...).Error()}}
	}
	name := r.a.Namespace + "/" + s.PodName
	pod, err := get(ctx, client.Pods.In(r.door, r.a.Namespace), s.PodName)
	if err != nil {
		return again("while retrieving pod %q named in the PodCertificateRequest: %w", name, unfound(err, "pod", s.PodName))
	}
	switch {
	case pod.UID != s.PodUID:
		return again("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", name, s.PodUID, pod.UID)
	case pod.Spec.NodeName != r.node:
		return fmt.Sprintf("pod %q is not running on node %q named in the PodCertificateRequest", name, r.node), nil
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return fmt.Sprintf("pod %q is a mirror pod", name), nil
	case pod.Spec.ServiceAccountName != s.ServiceAccountName:
		return fmt.Sprintf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", name, s.ServiceAccountName, pod.Spec.ServiceAccountName), nil
	}
	account, err := get(ctx, client.ServiceAccounts.In(r.door, r.a.Namespace), s.ServiceAccountName)
	if err != nil {
		return again("while retrieving service account %q named in the PodCertificateRequest: %w", r.a.Namespace+"/"+s.ServiceAccountName, unfound(err, "serviceaccount", s.ServiceAccountName))
	}
	if account.UID != s.ServiceAccountUID {
		return again("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", name, s.ServiceAccountUID, account.UID)
	}
	n, err := get(ctx, client.Nodes.In(r.door, ""), r.node)
	if err != nil {
		return again("while retrieving node %q named in the PodCertificateRequest: %w", r.node, unfound(err, "node", r.node))
	}
	if n.UID != s.NodeUID {
		return again("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", name, s.NodeUID, n.UID)
	}
	return "", nil
}

// unfound says that something is not there as upstream's caches do.
func unfound(err error, what, name string) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s %q not found", what, name)
	}
	return err
}
