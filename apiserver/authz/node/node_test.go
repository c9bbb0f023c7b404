package node

import (
	"context"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

func kubelet(name string) client.User {
	return client.User{Name: "system:node:" + name, Groups: []string{"system:nodes", "system:authenticated"}}
}

func pod(node, name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "sa-" + name}}
	if change != nil {
		change(p)
	}
	return p
}

func seed(d *doortest.Door) {
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	doortest.Put(d, client.Pods, pod("n1", "p1", func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{local("pull")}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "a", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol-secret"}}},
			{Name: "b", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("vol-map")}}},
			{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
			{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			{Name: "d", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: local("proj-secret")}}, {ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("proj-map")}}}}}},
		}
		p.Spec.InitContainers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("env-secret")}}}}}
		p.Spec.Containers = []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local("key-map")}}}}}}
	}))
	doortest.Put(d, client.Pods, pod("n2", "p2", func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{local("other-pull")}
	}))
	doortest.Put(d, client.Pods, pod("n1", "ended", func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{local("ended-secret")}
	}))
	doortest.Put(d, client.Pods, pod("n1", "mirror", func(p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{local("mirror-secret")}
	}))
	doortest.Put(d, client.PersistentVolumeClaims, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "claim"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}})
	doortest.Put(d, client.PersistentVolumes, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "claim"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodeStageSecretRef:        &corev1.SecretReference{Namespace: "ns", Name: "stage"},
			NodePublishSecretRef:      &corev1.SecretReference{Namespace: "driver", Name: "publish"},
			ControllerExpandSecretRef: &corev1.SecretReference{Namespace: "ns", Name: "controller-only"}}}}})
	for _, node := range []string{"n1", "n2"} {
		doortest.Put(d, client.PodCertificateRequests, &certificatesv1beta1.PodCertificateRequest{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "of-" + node}, Spec: certificatesv1beta1.PodCertificateRequestSpec{NodeName: types.NodeName(node)}})
	}
	doortest.Put(d, client.VolumeAttachments, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va1"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}})
}

func TestAuthorize(t *testing.T) {
	var d doortest.Door
	seed(&d)
	a := New(&d, []rbacv1.PolicyRule{
		{Verbs: []string{"create", "patch"}, APIGroups: []string{""}, Resources: []string{"events"}},
		{Verbs: []string{"patch"}, APIGroups: []string{""}, Resources: []string{"nodes/status"}},
		{Verbs: []string{"create", "get", "list", "watch"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"podcertificaterequests"}},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	defer func() { cancel(); <-done }()

	at := func(verb, resource, name string) authz.Attributes {
		return authz.Attributes{Verb: verb, Resource: resource, Name: name, Namespace: "ns"}
	}
	in := func(group string, x authz.Attributes) authz.Attributes { x.Group = group; return x }
	sub := func(s string, x authz.Attributes) authz.Attributes { x.Subresource = s; return x }
	all := func(x authz.Attributes) authz.Attributes { x.Namespace = ""; return x }
	where := func(sel string, x authz.Attributes) authz.Attributes {
		x.FieldSelector = fields.ParseSelectorOrDie(sel)
		return x
	}
	lease := func(verb, ns, name string) authz.Attributes {
		return authz.Attributes{Verb: verb, Group: "coordination.k8s.io", Resource: "leases", Namespace: ns, Name: name}
	}
	const none = "no relationship found between node 'n1' and this object"
	for name, tc := range map[string]struct {
		at     authz.Attributes
		reason string // "" is allowed
	}{
		"pull secret":                   {at("get", "secrets", "pull"), ""},
		"volume secret":                 {at("get", "secrets", "vol-secret"), ""},
		"projected secret":              {at("watch", "secrets", "proj-secret"), ""},
		"environment secret":            {at("list", "secrets", "env-secret"), ""},
		"secret of a volume":            {at("get", "secrets", "stage"), ""},
		"secret of a volume elsewhere":  {authz.Attributes{Verb: "get", Resource: "secrets", Namespace: "driver", Name: "publish"}, ""},
		"secret of that name here":      {at("get", "secrets", "publish"), none},
		"secret of a volume controller": {at("get", "secrets", "controller-only"), none},
		"secret of another node's pod":  {at("get", "secrets", "other-pull"), none},
		"secret of no pod":              {at("get", "secrets", "nobody"), none},
		"secret of an ended pod":        {at("get", "secrets", "ended-secret"), none},
		"pod that has ended":            {at("get", "pods", "ended"), ""},
		"pod of another node":           {at("get", "pods", "p2"), none},
		"secret of a mirror pod":        {at("get", "secrets", "mirror-secret"), none},
		"secret of the same name elsewhere": {func() authz.Attributes {
			x := at("get", "secrets", "pull")
			x.Namespace = "elsewhere"
			return x
		}(), none},
		"all secrets":             {at("list", "secrets", ""), "No Object name found"},
		"change a secret":         {at("update", "secrets", "pull"), "can only read resources of this type"},
		"volume map":              {at("get", "configmaps", "vol-map"), ""},
		"projected map":           {at("get", "configmaps", "proj-map"), ""},
		"environment map":         {at("get", "configmaps", "key-map"), ""},
		"map of no pod":           {at("get", "configmaps", "pull"), none},
		"claim":                   {at("get", "persistentvolumeclaims", "claim"), ""},
		"claim of an ephemeral":   {at("get", "persistentvolumeclaims", "p1-e"), ""},
		"claim watched":           {at("watch", "persistentvolumeclaims", "claim"), "can only get individual resources of this type"},
		"volume":                  {all(at("get", "persistentvolumes", "pv")), ""},
		"volume unknown":          {all(at("get", "persistentvolumes", "pv2")), none},
		"attachment":              {all(in("storage.k8s.io", at("get", "volumeattachments", "va1"))), ""},
		"token":                   {sub("token", at("create", "serviceaccounts", "sa-p1")), ""},
		"token of another's pod":  {sub("token", at("create", "serviceaccounts", "sa-p2")), none},
		"token of a mirror pod":   {sub("token", at("create", "serviceaccounts", "sa-mirror")), none},
		"ask for a certificate":   {in("certificates.k8s.io", at("create", "podcertificaterequests", "")), ""},
		"own request":             {in("certificates.k8s.io", at("get", "podcertificaterequests", "of-n1")), ""},
		"another's request":       {in("certificates.k8s.io", at("get", "podcertificaterequests", "of-n2")), none},
		"no request":              {in("certificates.k8s.io", at("get", "podcertificaterequests", "x")), none},
		"own requests":            {where("spec.nodeName=n1", in("certificates.k8s.io", at("watch", "podcertificaterequests", ""))), ""},
		"another's requests":      {where("spec.nodeName=n2", in("certificates.k8s.io", at("list", "podcertificaterequests", ""))), "can only list/watch podcertificaterequests with nodeName field selector"},
		"delete a request":        {in("certificates.k8s.io", at("delete", "podcertificaterequests", "of-n1")), "nodes may not delete podcertificaterequests"},
		"answer a request":        {sub("status", in("certificates.k8s.io", at("update", "podcertificaterequests", "of-n1"))), "nodes may not access the status subresource of PodCertificateRequests"},
		"own lease":               {lease("update", "kube-node-lease", "n1"), ""},
		"new lease":               {lease("create", "kube-node-lease", ""), ""},
		"another's lease":         {lease("update", "kube-node-lease", "n2"), "can only access node lease with the same name as the requesting node"},
		"lease elsewhere":         {lease("get", "ns", "n1"), `can only access leases in the "kube-node-lease" system namespace`},
		"list leases":             {lease("list", "kube-node-lease", ""), "can only get, create, update, patch, or delete a node lease"},
		"own csinode":             {all(in("storage.k8s.io", at("update", "csinodes", "n1"))), ""},
		"another's csinode":       {all(in("storage.k8s.io", at("get", "csinodes", "n2"))), "can only access CSINode with the same name as the requesting node"},
		"own node":                {all(at("get", "nodes", "n1")), ""},
		"own node watched":        {where("metadata.name=n1", all(at("watch", "nodes", ""))), ""},
		"another node":            {all(at("get", "nodes", "n2")), "node 'n1' cannot read 'n2', only its own Node object"},
		"all nodes":               {all(at("list", "nodes", "")), "node 'n1' cannot read all nodes, only its own Node object"},
		"status read":             {sub("status", at("get", "nodes", "n1")), noRule},
		"proxy":                   {sub("proxy", at("get", "nodes", "n1")), noRule},
		"own status":              {sub("status", all(at("patch", "nodes", "n1"))), ""},
		"another's status":        {sub("status", all(at("patch", "nodes", "n2"))), ""}, // NodeRestriction's
		"delete node":             {all(at("delete", "nodes", "n1")), noRule},
		"own pods":                {where("spec.nodeName=n1", all(at("list", "pods", ""))), ""},
		"all pods":                {all(at("list", "pods", "")), "can only list/watch pods with spec.nodeName field selector"},
		"another's pods":          {where("spec.nodeName=n2", all(at("list", "pods", ""))), "can only list/watch pods with spec.nodeName field selector"},
		"own pod":                 {at("get", "pods", "p1"), ""},
		"another's pod":           {at("get", "pods", "p2"), none},
		"pod status":              {sub("status", at("patch", "pods", "p1")), ""},
		"exec":                    {sub("exec", at("create", "pods", "p1")), noRule},
		"by rule":                 {at("create", "events", ""), ""},
		"not by rule":             {at("delete", "events", "x"), noRule},
		"anything else":           {at("get", "services", "x"), noRule},
		"slice by another's name": {where("spec.nodeName=n2", all(in("resource.k8s.io", at("list", "resourceslices", "")))), "can only list/watch/deletecollection resourceslices with nodeName field selector"},
	} {
		tc.at.User = kubelet("n1")
		dec, reason, err := a.Authorize(ctx, &tc.at)
		if tc.reason == noRule { // which nobody is told
			if dec == authz.Allow || reason != "" || err != nil {
				t.Errorf("%s: %v %q %v", name, dec, reason, err)
			}
			continue
		}
		if err != nil || reason != tc.reason || (dec == authz.Allow) != (tc.reason == "") {
			t.Errorf("%s: got %v %q %v, want %q", name, dec, reason, err, tc.reason)
		}
	}
	for name, u := range map[string]client.User{
		"not in the group": {Name: "system:node:n1"}, "not a node": {Name: "x", Groups: []string{"system:nodes"}}, "no name": kubelet(""),
	} {
		x := at("get", "secrets", "pull")
		x.User = u
		if dec, _, err := a.Authorize(ctx, &x); dec != authz.NoOpinion || err != nil {
			t.Errorf("%s: got %v %v", name, dec, err)
		}
	}
	// A pod that goes takes its node's rights along; one that comes brings them.
	if err := client.Pods.In(&d, "ns").Delete(ctx, "p1", client.Options{}); err != nil {
		t.Fatal(err)
	}
	doortest.Put(&d, client.Pods, pod("n1", "p3", nil))
	allowed := func(x authz.Attributes) bool {
		x.User = kubelet("n1")
		dec, _, _ := a.Authorize(ctx, &x)
		return dec == authz.Allow
	}
	err := wait.PollUntilContextTimeout(ctx, time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		return !allowed(at("get", "secrets", "pull")) && allowed(sub("token", at("create", "serviceaccounts", "sa-p3"))), nil
	})
	if err != nil {
		t.Error("the rights did not follow the pods")
	}
}
