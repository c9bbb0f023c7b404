package plugins

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api/localvolumes"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
)

func TestNodeRestriction(t *testing.T) {
	b := newBench()
	n1 := doortest.Put(&b.door, client.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	on := func(node string) *corev1.Pod { return newTestPod(func(p *corev1.Pod) { p.Spec.NodeName = node }) }
	mine := doortest.Put(&b.door, client.Pods, withToken(on("n1")))
	doortest.Put(&b.door, client.Pods, newTestPod(func(p *corev1.Pod) { p.Name = "theirs"; p.Spec.NodeName = "n2" }))
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		yes := true
		p := on("n1")
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: n1.UID, Controller: &yes}}
		if change != nil {
			change(p)
		}
		return p
	}
	labelled := func(name string, labels map[string]string, taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	sub := func(a *admission.Attributes, s, name string, obj runtime.Object) *admission.Attributes {
		a.Subresource, a.Name, a.Namespace = s, name, "ns"
		if obj != nil {
			a.Object = obj
		}
		return a
	}
	action := func(k func(*admission.Attributes), s, name string, obj runtime.Object) *admission.Attributes {
		a := &admission.Attributes{Operation: admission.Create}
		k(a)
		return sub(a, s, name, obj)
	}
	pods := func(a *admission.Attributes) { a.Resource = client.Pods.GroupVersionResource }
	accounts := func(a *admission.Attributes) { a.Resource = client.ServiceAccounts.GroupVersionResource }
	token := func(name string) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name}}}
	}
	bound := token("p")
	bound.Spec.BoundObjectRef.UID = mine.UID
	theirs := token("theirs")
	theirs.Spec.BoundObjectRef.UID = "x"
	lease := func(ns, name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signing := func(signer, name string) *certificatesv1.CertificateSigningRequest {
		req, err := pki.NewCSR(key, pki.Spec{CommonName: name, Organizations: []string{"system:nodes"}})
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{Request: req, SignerName: signer}}
	}
	status := func(obj, old *corev1.Pod) *admission.Attributes {
		a := write(admission.Update, client.Pods, obj, old)
		a.Subresource = "status"
		return a
	}
	relabelled := on("n1")
	relabelled.Labels = map[string]string{"a": "b"}
	for name, tc := range map[string]struct {
		a   *admission.Attributes
		err string
	}{
		"mirror":                 {create(client.Pods, mirror(nil)), ""},
		"plain pod":              {create(client.Pods, on("n1")), `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		"mirror elsewhere":       {create(client.Pods, mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })), `node "n1" can only create pods with spec.nodeName set to itself`},
		"mirror without owner":   {create(client.Pods, mirror(func(p *corev1.Pod) { p.OwnerReferences = nil })), `node "n1" can only create pods with an owner reference set to itself`},
		"mirror of an old node":  {create(client.Pods, mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" })), "UID mismatch"},
		"mirror with an account": {create(client.Pods, mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" })), `node "n1" can not create pods that reference a service account`},
		"mirror with a secret": {create(client.Pods, mirror(func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{}}}
		})), `can not create pods that reference secrets`},
		"delete own":            {write(admission.Delete, client.Pods, nil, on("n1")), ""},
		"delete another's":      {write(admission.Delete, client.Pods, nil, on("n2")), `node "n1" can only delete pods with spec.nodeName set to itself`},
		"update":                {write(admission.Update, client.Pods, on("n1"), on("n1")), "unexpected operation"},
		"status":                {status(on("n1"), on("n1")), ""},
		"another's status":      {status(on("n2"), on("n2")), `node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		"labels by status":      {status(relabelled, on("n1")), `node "n1" cannot update labels through pod status`},
		"exec":                  {action(pods, "exec", "p", nil), `unexpected pod subresource "exec", only 'status' and 'eviction' are allowed`},
		"evict":                 {action(pods, "eviction", "p", &policyv1.Eviction{}), ""},
		"evict another's":       {action(pods, "eviction", "theirs", &policyv1.Eviction{}), "node n1 can only evict pods with spec.nodeName set to itself"},
		"token":                 {action(accounts, "token", "default", bound), ""},
		"token without a pod":   {action(accounts, "token", "default", &authenticationv1.TokenRequest{}), "node requested token not bound to a pod"},
		"token without uid":     {action(accounts, "token", "default", token("p")), "node requested token with a pod binding without a uid"},
		"token of another pod":  {action(accounts, "token", "default", theirs), "does not match the UID in record"},
		"own node":              {create(client.Nodes, labelled("n1", map[string]string{"kubernetes.io/hostname": "n1", "node.kubernetes.io/x": "y", "kubelet.kubernetes.io/x": "y", "mine.example.com/x": "y"})), ""},
		"another node":          {create(client.Nodes, labelled("n2", nil)), `node "n1" is not allowed to modify node "n2"`},
		"forbidden labels":      {create(client.Nodes, labelled("n1", map[string]string{"node-restriction.kubernetes.io/a": "b", "node-role.kubernetes.io/control-plane": ""})), `node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/a, node-role.kubernetes.io/control-plane`},
		"label removed":         {write(admission.Update, client.Nodes, labelled("n1", nil), labelled("n1", map[string]string{"x.k8s.io/a": "b"})), `nodes "n1" is forbidden: is not allowed to modify labels: x.k8s.io/a`},
		"taint removed":         {write(admission.Update, client.Nodes, labelled("n1", nil), labelled("n1", nil, corev1.Taint{Key: "k"})), `node "n1" is not allowed to modify taints`},
		"own certificate":       {create(client.CertificateSigningRequests, signing(certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:n1")), ""},
		"another's certificate": {create(client.CertificateSigningRequests, signing(certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:n2")), "can only create a node CSR with CN=system:node:n1"},
		"to serve as another":   {create(client.CertificateSigningRequests, signing(certificatesv1.KubeletServingSignerName, "system:node:n2")), "can only create a node CSR with CN=system:node:n1"},
		"of another signer":     {create(client.CertificateSigningRequests, signing("example.com/s", "system:node:n2")), ""},
		"mirror with a claim of its own": {create(client.Pods, mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		})), `can not create pods that reference persistentvolumeclaims (via ephemeral volumes)`},
		"mirror with a driver's secret": {create(client.Pods, mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &corev1.LocalObjectReference{Name: "s"}}}}}
		})), `can not create pods that reference secrets`},
		"own lease":         {create(client.Leases, lease("kube-node-lease", "n1")), ""},
		"another's lease":   {create(client.Leases, lease("kube-node-lease", "n2")), "can only access node lease with the same name as the requesting node"},
		"lease elsewhere":   {create(client.Leases, lease("kube-system", "n1")), `can only access leases in the "kube-node-lease" system namespace`},
		"csinode":           {create(client.CSINodes, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}), ""},
		"another's csinode": {create(client.CSINodes, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}), "can only access CSINode with the same name as the requesting node"},
		"claim":             {create(client.PersistentVolumeClaims, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}), "unexpected operation"},
	} {
		tc.a.User = client.User{Name: "system:node:n1", Groups: []string{"system:nodes"}}
		check(t, name, b.run(tc.a, "NodeRestriction"), tc.err)
	}
	nameless := create(client.Nodes, labelled("", nil))
	nameless.User = client.User{Name: "system:node:", Groups: []string{"system:nodes"}}
	check(t, "nameless", b.run(nameless, "NodeRestriction"), "could not determine node from user")
	check(t, "an ordinary user", b.run(create(client.Pods, on("n2")), "NodeRestriction"), "")
}

func TestDefaultClasses(t *testing.T) {
	b := newBench()
	class := func(name, key string, age int) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(10000-age), 0))}
		if key != "" {
			m.Annotations = map[string]string{key: "true"}
		}
		return m
	}
	pvc := func() *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
	}
	c := pvc()
	check(t, "no class", b.run(create(client.PersistentVolumeClaims, c)), "")
	if c.Spec.StorageClassName != nil || len(c.Finalizers) != 1 || c.Finalizers[0] != "kubernetes.io/pvc-protection" {
		t.Errorf("got %v %v", c.Spec.StorageClassName, c.Finalizers)
	}
	doortest.Put(&b.door, client.StorageClasses, &storagev1.StorageClass{ObjectMeta: class("old", "storageclass.kubernetes.io/is-default-class", 20)})
	doortest.Put(&b.door, client.StorageClasses, &storagev1.StorageClass{ObjectMeta: class("new", "storageclass.kubernetes.io/is-default-class", 10)})
	doortest.Put(&b.door, client.StorageClasses, &storagev1.StorageClass{ObjectMeta: class("newest", "", 0)})
	doortest.Put(&b.door, client.IngressClasses, &networkingv1.IngressClass{ObjectMeta: class("a", networkingv1.AnnotationIsDefaultIngressClass, 1)})
	doortest.Put(&b.door, client.IngressClasses, &networkingv1.IngressClass{ObjectMeta: class("b", networkingv1.AnnotationIsDefaultIngressClass, 1)})
	c = pvc()
	check(t, "default", b.run(create(client.PersistentVolumeClaims, c)), "")
	if c.Spec.StorageClassName == nil || *c.Spec.StorageClassName != "new" {
		t.Errorf("got %v", c.Spec.StorageClassName)
	}
	c = pvc()
	c.Spec.StorageClassName = new("")
	check(t, "none wanted", b.run(create(client.PersistentVolumeClaims, c)), "")
	if *c.Spec.StorageClassName != "" {
		t.Errorf("got %q", *c.Spec.StorageClassName)
	}
	ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "i"}}
	check(t, "ingress", b.run(create(client.Ingresses, ing)), "")
	if ing.Spec.IngressClassName == nil || *ing.Spec.IngressClassName != "a" {
		t.Errorf("got %v", ing.Spec.IngressClassName)
	}
}

func TestClaimResize(t *testing.T) {
	b := newBench()
	yes := true
	doortest.Put(&b.door, client.StorageClasses, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "grows"}, AllowVolumeExpansion: &yes})
	doortest.Put(&b.door, client.StorageClasses, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "rigid"}})
	claim := func(class, size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Status: corev1.PersistentVolumeClaimStatus{Phase: phase},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse(size)}}}}
	}
	for name, tc := range map[string]struct {
		class, from, to string
		phase           corev1.PersistentVolumeClaimPhase
		err             string
	}{
		"grows":     {"grows", "1Gi", "2Gi", corev1.ClaimBound, ""},
		"same":      {"rigid", "1Gi", "1Gi", corev1.ClaimBound, ""},
		"rigid":     {"rigid", "1Gi", "2Gi", corev1.ClaimBound, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"},
		"no class":  {"", "1Gi", "2Gi", corev1.ClaimBound, "only dynamically provisioned pvc can be resized"},
		"lost":      {"lost", "1Gi", "2Gi", corev1.ClaimBound, "only dynamically provisioned pvc can be resized"},
		"not bound": {"grows", "1Gi", "2Gi", corev1.ClaimPending, "Only bound persistent volume claims can be expanded"},
	} {
		check(t, name, b.run(write(admission.Update, client.PersistentVolumeClaims, claim(tc.class, tc.to, tc.phase), claim(tc.class, tc.from, tc.phase))), tc.err)
	}
}

func TestCertificates(t *testing.T) {
	b := newBench()
	const signer = "example.com/s"
	b.allowed = []authz.Attributes{
		{User: client.User{Name: "approver"}, Verb: "approve", Resource: "signers", Name: signer},
		{User: client.User{Name: "domain"}, Verb: "approve", Resource: "signers", Name: "example.com/*"},
		{User: client.User{Name: "signer"}, Verb: "sign", Resource: "signers", Name: signer},
	}
	csr := func(cert string) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer}, Status: certificatesv1.CertificateSigningRequestStatus{Certificate: []byte(cert)}}
	}
	upd := func(sub, user string, obj, old *certificatesv1.CertificateSigningRequest) *admission.Attributes {
		a := write(admission.Update, client.CertificateSigningRequests, obj, old)
		a.Subresource, a.User.Name = sub, user
		return a
	}
	renamed := csr("")
	renamed.Spec.SignerName = "other/s"
	for name, tc := range map[string]struct {
		a   *admission.Attributes
		err string
	}{
		"approver":                   {upd("approval", "approver", csr(""), csr("")), ""},
		"approver of the domain":     {upd("approval", "domain", csr(""), csr("")), ""},
		"not an approver":            {upd("approval", "signer", csr(""), csr("")), `certificatesigningrequests.certificates.k8s.io "r" is forbidden: user not permitted to approve requests with signerName "example.com/s"`},
		"the stored signer counts":   {upd("approval", "approver", csr(""), renamed), `signerName "other/s"`},
		"signer":                     {upd("status", "signer", csr("cert"), csr("")), ""},
		"not a signer":               {upd("status", "approver", csr("cert"), csr("")), `user not permitted to sign requests with signerName "example.com/s"`},
		"status without certificate": {upd("status", "anyone", csr(""), csr("")), ""},
	} {
		check(t, name, b.run(tc.a), tc.err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ org, signer, err string }{
		{"devs", certificatesv1.KubeAPIServerClientSignerName, ""},
		{"system:masters", certificatesv1.KubeAPIServerClientSignerName, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"},
		{"system:masters", signer, ""},
	} {
		req, err := pki.NewCSR(key, pki.Spec{CommonName: "x", Organizations: []string{tc.org}})
		if err != nil {
			t.Fatal(err)
		}
		r := csr("")
		r.Spec.Request, r.Spec.SignerName = req, tc.signer
		check(t, tc.org+" "+tc.signer, b.run(create(client.CertificateSigningRequests, r)), tc.err)
	}
	r := csr("")
	r.Spec.Request, r.Spec.SignerName = []byte("junk"), certificatesv1.KubeAPIServerClientSignerName
	check(t, "junk", b.run(create(client.CertificateSigningRequests, r)), "failed to parse CSR")
}

// TestNodesLetTheirVolumesGo: a node may take the local provisioner's
// finalizer off the volumes that it holds, and nothing else.
func TestNodesLetTheirVolumesGo(t *testing.T) {
	b := newBench()
	volume := func(node string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{
			Name: "v", ResourceVersion: "1", Labels: map[string]string{localvolumes.NodeLabel: node},
			Finalizers: []string{"kubernetes.io/pv-protection", localvolumes.Finalizer},
		}}
		if change != nil {
			change(v)
		}
		return v
	}
	letGo := func(v *corev1.PersistentVolume) { v.Finalizers, v.ResourceVersion = v.Finalizers[:1], "2" }
	for name, tc := range map[string]struct {
		old, obj *corev1.PersistentVolume
		err      string
	}{
		"its finalizer":         {volume("n1", nil), volume("n1", letGo), ""},
		"nothing":               {volume("n1", nil), volume("n1", nil), ""},
		"another's finalizer":   {volume("n1", nil), volume("n1", func(v *corev1.PersistentVolume) { v.Finalizers = nil }), "can only remove the finalizer"},
		"another node's volume": {volume("n2", nil), volume("n2", letGo), "that it holds"},
		"the label too":         {volume("n2", nil), volume("n1", letGo), "that it holds"},
		"the directory too": {volume("n1", nil), volume("n1", func(v *corev1.PersistentVolume) {
			letGo(v)
			v.Spec.Local = &corev1.LocalVolumeSource{Path: "/etc"}
		}), "can only remove the finalizer"},
		"adds a finalizer": {volume("n1", letGo), volume("n1", nil), "can only remove the finalizer"},
	} {
		a := create(client.PersistentVolumes, tc.obj)
		a.Operation, a.Old = admission.Update, tc.old
		a.User = client.User{Name: "system:node:n1", Groups: []string{"system:nodes"}}
		check(t, name, b.run(a), tc.err)
	}
}
