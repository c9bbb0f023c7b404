package localprovisioner

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/localvolumes"
)

func TestVolumeFor(t *testing.T) {
	for name, c := range map[string]struct {
		claim func(*corev1.PersistentVolumeClaim)
		node  func(*corev1.Node)
		fail  string
		again bool // on another node
	}{
		"plain":      {},
		"block":      {claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }, fail: "Block"},
		"shared":     {claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadWriteMany }, fail: "one node"},
		"no volumes": {node: func(n *corev1.Node) { n.Annotations = nil }, fail: "offers no local volumes", again: true},
		"bad folder": {node: func(n *corev1.Node) { n.Annotations[localvolumes.FolderAnnotation] = "x/../y" }, fail: "offers no local volumes", again: true},
		"no label":   {node: func(n *corev1.Node) { n.Labels = nil }, fail: "no label", again: true},
	} {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "u"}}
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelHostname: "n"}, Annotations: map[string]string{localvolumes.FolderAnnotation: "/data"}}}
		if c.claim != nil {
			c.claim(claim)
		}
		if c.node != nil {
			c.node(node)
		}
		v, no := volumeFor(claim, &storagev1.StorageClass{}, node)
		switch {
		case c.fail == "" && (no != nil || v.Spec.Local.Path != "/data/pvc-u" || v.Spec.ClaimRef.UID != "u" || v.Labels[localvolumes.NodeLabel] != "n"):
			t.Errorf("%s: got %+v, %v", name, v, no)
		case c.fail != "" && (no == nil || !strings.Contains(no.text, c.fail) || no.node != c.again):
			t.Errorf("%s: got %+v, %v", name, v, no)
		}
	}
}

// TestWants: a claim whose data a populator brings is not filled with an empty
// folder, nor told that this cannot be.
func TestWants(t *testing.T) {
	ref := func(group *string, kind string) *corev1.TypedObjectReference {
		return &corev1.TypedObjectReference{APIGroup: group, Kind: kind, Name: "x"}
	}
	for name, c := range map[string]struct {
		from *corev1.TypedObjectReference
		want bool
	}{
		"nothing":             {nil, true},
		"a claim":             {ref(nil, "PersistentVolumeClaim"), true},
		"a snapshot":          {ref(ptr.To("snapshot.storage.k8s.io"), "VolumeSnapshot"), true},
		"a populator's":       {ref(ptr.To("hello.example.com"), "Hello"), false},
		"a claim of another":  {ref(ptr.To("hello.example.com"), "PersistentVolumeClaim"), false},
		"another of the core": {ref(nil, "ConfigMap"), false},
	} {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{volume.AnnStorageProvisioner: localvolumes.Provisioner}}}
		claim.Spec.DataSourceRef = c.from
		if got := wants(claim); got != c.want {
			t.Errorf("from %s: %v", name, got)
		}
	}
}
