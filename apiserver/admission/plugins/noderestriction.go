package plugins

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz/node"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
)

// nodeRestriction holds kubelets to their own node and its pods in what they
// write; the node authorizer does so for what they read. As upstream, it does
// so before the object is validated.
func nodeRestriction(d deps) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update, admission.Delete), admit: d.restrictNode}
}

func (d deps) restrictNode(ctx context.Context, a *admission.Attributes) error {
	name, isNode := node.Identify(&a.User)
	if !isNode {
		return nil
	}
	if name == "" {
		return forbid(a, fmt.Sprintf("could not determine node from user %q", a.User.Name))
	}
	r := restriction{d, name, a}
	var reason string
	var err error
	switch a.Resource.GroupResource().String() {
	case "pods":
		switch a.Subresource {
		case "":
			reason, err = r.pod(ctx)
		case "status":
			reason = r.podStatus()
		case "eviction":
			reason, err = r.eviction(ctx)
		default:
			reason = fmt.Sprintf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.Subresource)
		}
	case "nodes":
		reason = r.nodeObject()
	case "persistentvolumeclaims":
		reason = r.claim()
	case "persistentvolumes":
		reason = r.volume()
	case "serviceaccounts":
		if a.Subresource == "token" {
			reason, err = r.token(ctx)
		}
	case "certificatesigningrequests.certificates.k8s.io":
		reason = r.signingRequest()
	case "podcertificaterequests.certificates.k8s.io":
		reason, err = r.podRequest(ctx)
	case "leases.coordination.k8s.io":
		reason = r.lease()
	case "csinodes.storage.k8s.io":
		if n, ok := either[*storagev1.CSINode](a); ok && n.Name != name {
			reason = "can only access CSINode with the same name as the requesting node"
		}
	case "resourceslices.resource.k8s.io":
		if s, ok := a.Object.(*resourcev1.ResourceSlice); ok && (s.Spec.NodeName == nil || *s.Spec.NodeName != name) {
			reason = "can only create ResourceSlice with the same NodeName as the requesting node"
		}
	}
	if err != nil || reason == "" {
		return err
	}
	return forbid(a, reason)
}

// either is the new object, or the old one of a delete.
func either[T any](a *admission.Attributes) (T, bool) {
	if obj, ok := a.Object.(T); ok {
		return obj, true
	}
	obj, ok := a.Old.(T)
	return obj, ok
}

type restriction struct {
	deps
	node string
	a    *admission.Attributes
}

func (r *restriction) pod(ctx context.Context) (string, error) {
	switch r.a.Operation {
	case admission.Create:
		pod, ok := r.a.Object.(*corev1.Pod)
		if !ok {
			return "unexpected type", nil
		}
		return r.newPod(ctx, pod)
	case admission.Delete:
		pod, ok := r.a.Old.(*corev1.Pod)
		if !ok {
			return "unexpected type", nil
		}
		if pod.Spec.NodeName != r.node {
			return fmt.Sprintf("node %q can only delete pods with spec.nodeName set to itself", r.node), nil
		}
		return "", nil
	}
	return fmt.Sprintf("unexpected operation %q, node %q can only create and delete mirror pods", r.a.Operation, r.node), nil
}

func (r *restriction) newPod(ctx context.Context, pod *corev1.Pod) (string, error) {
	if !isMirror(pod) {
		return fmt.Sprintf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, r.node), nil
	}
	if pod.Spec.NodeName != r.node {
		return fmt.Sprintf("node %q can only create pods with spec.nodeName set to itself", r.node), nil
	}
	owners := pod.OwnerReferences
	switch {
	case len(owners) > 1:
		return fmt.Sprintf("node %q can only create pods with a single owner reference set to itself", r.node), nil
	case len(owners) == 0:
		return fmt.Sprintf("node %q can only create pods with an owner reference set to itself", r.node), nil
	}
	o := owners[0]
	if o.APIVersion != "v1" || o.Kind != "Node" || o.Name != r.node {
		return fmt.Sprintf("node %q can only create pods with an owner reference set to itself", r.node), nil
	}
	if o.Controller == nil || !*o.Controller {
		return fmt.Sprintf("node %q can only create pods with a controller owner reference set to itself", r.node), nil
	}
	if o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion {
		return fmt.Sprintf("node %q must not set blockOwnerDeletion on an owner reference", r.node), nil
	}
	n, err := get(ctx, client.Nodes.In(r.door, ""), r.node)
	if apierrors.IsNotFound(err) {
		return "", err
	}
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	if n.UID != o.UID {
		return fmt.Sprintf("node %s UID mismatch: expected %s got %s", r.node, o.UID, n.UID), nil
	}
	if what := draws(pod); what != "" {
		return fmt.Sprintf("node %q can not create pods that reference %s", r.node, what), nil
	}
	return "", nil
}

// draws names what a pod would draw rights from.
func draws(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName != "" {
		return "a service account"
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	if len(pod.Spec.ImagePullSecrets) > 0 {
		return "secrets"
	}
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.Secret != nil:
			return "secrets"
		case v.ConfigMap != nil:
			return "configmaps"
		case v.PersistentVolumeClaim != nil:
			return "persistentvolumeclaims"
		case v.Ephemeral != nil:
			return "persistentvolumeclaims (via ephemeral volumes)"
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				switch {
				case s.ServiceAccountToken != nil:
					return "a service account"
				case s.Secret != nil:
					return "secrets"
				case s.ConfigMap != nil:
					return "configmaps"
				case s.ClusterTrustBundle != nil:
					return "clustertrustbundles"
				case s.PodCertificate != nil:
					return "podcertificates"
				}
			}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, from := range list[i].EnvFrom {
				if from.SecretRef != nil {
					return "secrets"
				}
				if from.ConfigMapRef != nil {
					return "configmaps"
				}
			}
			for _, e := range list[i].Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					return "secrets"
				}
				if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
					return "configmaps"
				}
			}
		}
	}
	if node.RefersToSecret(pod, func(string) bool { return true }) { // by a volume of another kind
		return "secrets"
	}
	return ""
}

func (r *restriction) podStatus() string {
	old, ok := r.a.Old.(*corev1.Pod)
	pod, ok2 := r.a.Object.(*corev1.Pod)
	if !ok || !ok2 {
		return fmt.Sprintf("unexpected operation %q", r.a.Operation)
	}
	switch {
	case old.Spec.NodeName != r.node:
		return fmt.Sprintf("node %q can only update pod status for pods with spec.nodeName set to itself", r.node)
	case !maps.Equal(old.Labels, pod.Labels):
		return fmt.Sprintf("node %q cannot update labels through pod status", r.node)
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return fmt.Sprintf("node %q cannot update resource claim statues", r.node)
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return fmt.Sprintf("node %q cannot update extended resource claim status", r.node)
	}
	return ""
}

func (r *restriction) eviction(ctx context.Context) (string, error) {
	ev, ok := r.a.Object.(*policyv1.Eviction)
	if !ok || r.a.Operation != admission.Create {
		return fmt.Sprintf("unexpected operation %s", r.a.Operation), nil
	}
	name := r.a.Name
	if name == "" {
		name = ev.Name
	}
	if name == "" {
		return "could not determine pod from request data", nil
	}
	pod, err := get(ctx, client.Pods.In(r.door, r.a.Namespace), name)
	if apierrors.IsNotFound(err) {
		return "", apierrors.NewNotFound(corev1.Resource("pod"), name)
	}
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	if pod.Spec.NodeName != r.node {
		return fmt.Sprintf("node %s can only evict pods with spec.nodeName set to itself", r.node), nil
	}
	return "", nil
}

func (r *restriction) nodeObject() string {
	requested := r.a.Name
	obj, _ := r.a.Object.(*corev1.Node)
	old, isUpdate := r.a.Old.(*corev1.Node)
	if r.a.Operation == admission.Create && obj != nil {
		// The body's name must be the node's too, whatever the request's is.
		if obj.Name != r.node {
			return fmt.Sprintf("node %q is not allowed to modify node %q", r.node, obj.Name)
		}
		requested = obj.Name
		if bad := forbiddenLabels(changedLabels(obj.Labels, nil)); len(bad) > 0 {
			return fmt.Sprintf("node %q is not allowed to set the following labels: %s", r.node, strings.Join(bad, ", "))
		}
		if len(obj.OwnerReferences) > 0 {
			return fmt.Sprintf("node %q is not allowed to set ownerReferences", r.node)
		}
	}
	if requested != r.node {
		return fmt.Sprintf("node %q is not allowed to modify node %q", r.node, requested)
	}
	if r.a.Operation != admission.Update || obj == nil || !isUpdate {
		return ""
	}
	switch {
	case obj.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(obj.Spec.ConfigSource, old.Spec.ConfigSource):
		return fmt.Sprintf("node %q is not allowed to update configSource to a new non-nil configSource", r.node)
	case !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints):
		return fmt.Sprintf("node %q is not allowed to modify taints", r.node)
	case !equality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences):
		return fmt.Sprintf("node %q is not allowed to modify ownerReferences", r.node)
	}
	if bad := forbiddenLabels(changedLabels(obj.Labels, old.Labels)); len(bad) > 0 {
		return "is not allowed to modify labels: " + strings.Join(bad, ", ")
	}
	return ""
}

func changedLabels(a, b map[string]string) []string {
	out := map[string]bool{}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			out[k] = true
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			out[k] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// kubeletLabels are those labels of the kubernetes.io and k8s.io domains that
// a kubelet may set on its node.
func kubeletLabels() []string {
	return []string{
		corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
		corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
		corev1.LabelInstanceType, corev1.LabelInstanceTypeStable,
		corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
		corev1.LabelWindowsBuild,
	}
}

func forbiddenLabels(keys []string) []string {
	allowed := kubeletLabels()
	var out []string
	for _, k := range keys {
		domain, _, hasDomain := strings.Cut(k, "/")
		if !hasDomain {
			continue
		}
		in := func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }
		switch {
		case in(corev1.LabelNamespaceNodeRestriction):
			out = append(out, k)
		case !in("kubernetes.io") && !in("k8s.io"), in(corev1.LabelNamespaceSuffixKubelet), in(corev1.LabelNamespaceSuffixNode), slices.Contains(allowed, k):
		default:
			out = append(out, k)
		}
	}
	return out
}

// claim lets a node report how a volume grew and nothing else.
func (r *restriction) claim() string {
	old, ok := r.a.Old.(*corev1.PersistentVolumeClaim)
	pvc, ok2 := r.a.Object.(*corev1.PersistentVolumeClaim)
	if r.a.Subresource != "status" || r.a.Operation != admission.Update || !ok || !ok2 {
		return fmt.Sprintf("unexpected operation %q on persistentvolumeclaims", r.a.Operation)
	}
	plain := func(in *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		out := in.DeepCopy()
		out.Status.Capacity, out.Status.Conditions = nil, nil
		out.Status.AllocatedResources, out.Status.AllocatedResourceStatuses = nil, nil
		out.ManagedFields, out.ResourceVersion = nil, ""
		return out
	}
	if !equality.Semantic.DeepEqual(plain(old), plain(pvc)) {
		return fmt.Sprintf("node %q is not allowed to update fields other than status.quantity and status.conditions", r.node)
	}
	return ""
}

// token lets a node ask for the tokens of the pods that it runs only.
func (r *restriction) token(ctx context.Context) (string, error) {
	tr, ok := r.a.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return "unexpected type", nil
	}
	ref := tr.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return "node requested token not bound to a pod", nil
	}
	if ref.UID == "" {
		return "node requested token with a pod binding without a uid", nil
	}
	pod, err := get(ctx, client.Pods.In(r.door, r.a.Namespace), ref.Name)
	if apierrors.IsNotFound(err) {
		return "", err
	}
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	if pod.UID != ref.UID {
		return fmt.Sprintf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID), nil
	}
	if pod.Spec.NodeName != r.node {
		return "node requested token bound to a pod scheduled on a different node", nil
	}
	return r.audience(ctx, tr.Spec.Audiences, pod)
}

// signingRequest lets a node ask for certificates in its own name only.
func (r *restriction) signingRequest() string {
	csr, ok := r.a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || r.a.Operation != admission.Create || r.a.Subresource != "" ||
		csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return ""
	}
	req, err := pki.ParseCSR(csr.Spec.Request)
	if err != nil {
		return "unable to parse csr: " + err.Error()
	}
	if want := "system:node:" + r.node; req.Subject.CommonName != want {
		return "can only create a node CSR with CN=" + want
	}
	return ""
}

func (r *restriction) lease() string {
	if r.a.Namespace != corev1.NamespaceNodeLease {
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	name := r.a.Name
	if l, ok := r.a.Object.(*coordinationv1.Lease); ok && r.a.Operation == admission.Create {
		name = l.Name
	}
	if name != r.node {
		return "can only access node lease with the same name as the requesting node"
	}
	return ""
}
