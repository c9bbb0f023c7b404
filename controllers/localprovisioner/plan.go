// Package localprovisioner makes volumes of directories on nodes: claims
// with a chosen node come in, volumes of type local go out; the node's part
// (package localvolume) makes and removes the directories.
package localprovisioner

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/localvolumes"
)

// wants says that a claim waits for a volume of this provisioner.
func wants(c *corev1.PersistentVolumeClaim) bool {
	return c.DeletionTimestamp == nil && c.Spec.VolumeName == "" && c.Annotations[volume.AnnStorageProvisioner] == localvolumes.Provisioner && !populated(c)
}

// populated says that a claim's data come from what provisioners know nothing
// of: a volume populator makes its volume, by a claim of its own, and gives it
// to this one (KEP-1495).
func populated(c *corev1.PersistentVolumeClaim) bool {
	r := c.Spec.DataSourceRef
	if r == nil {
		return false
	}
	switch group := ptr.Deref(r.APIGroup, ""); {
	case group == "" && r.Kind == "PersistentVolumeClaim", group == "snapshot.storage.k8s.io" && r.Kind == "VolumeSnapshot":
		return false
	}
	return true
}

// ours says that a volume was made by this provisioner.
func ours(v *corev1.PersistentVolume) bool {
	return v.Annotations[volume.AnnDynamicallyProvisioned] == localvolumes.Provisioner
}

// refusal is why a claim gets no volume. One that concerns the node sends the
// pod back to the scheduler.
type refusal struct {
	text string
	node bool
}

func (r *refusal) Error() string { return r.text }

// volumeFor makes the volume of a claim on a node, or says why not.
func volumeFor(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) (*corev1.PersistentVolume, *refusal) {
	mode := corev1.PersistentVolumeFilesystem
	if claim.Spec.VolumeMode != nil {
		mode = *claim.Spec.VolumeMode
	}
	switch {
	case mode != corev1.PersistentVolumeFilesystem:
		return nil, &refusal{text: "local volumes are directories: volumeMode Block is not supported"}
	case slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany), slices.Contains(claim.Spec.AccessModes, corev1.ReadOnlyMany):
		return nil, &refusal{text: "local volumes belong to one node: only ReadWriteOnce and ReadWriteOncePod are supported"}
	case claim.Spec.Selector != nil:
		return nil, &refusal{text: "claim.Spec.Selector is not supported"}
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return nil, &refusal{text: "local volumes cannot be made from a data source"}
	}
	folder := node.Annotations[localvolumes.FolderAnnotation]
	if !path.IsAbs(folder) {
		return nil, &refusal{text: fmt.Sprintf("node %q offers no local volumes", node.Name), node: true}
	}
	name := "pvc-" + string(claim.UID)
	host := node.Labels[corev1.LabelHostname]
	if host == "" {
		return nil, &refusal{text: fmt.Sprintf("node %q has no label %s", node.Name, corev1.LabelHostname), node: true}
	}
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{localvolumes.NodeLabel: node.Name},
			Annotations: map[string]string{volume.AnnDynamicallyProvisioned: localvolumes.Provisioner},
			Finalizers:  []string{localvolumes.Finalizer},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   slices.Clone(claim.Spec.AccessModes),
			PersistentVolumeReclaimPolicy: policy,
			StorageClassName:              class.Name,
			VolumeMode:                    &mode,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: path.Join(folder, name)},
			},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name,
				UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
	}, nil
}

// deletable says that a volume's claim is gone and its data may go too.
func deletable(v *corev1.PersistentVolume) bool {
	return ours(v) && v.DeletionTimestamp == nil && v.Status.Phase == corev1.VolumeReleased &&
		v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
}

// abandoned says that a volume that is being deleted waits for a node that
// is gone; nobody is left to remove the directory.
func abandoned(v *corev1.PersistentVolume, nodeThere bool) bool {
	return ours(v) && v.DeletionTimestamp != nil && slices.Contains(v.Finalizers, localvolumes.Finalizer) && !nodeThere
}

// grown returns the volume and the claim's status after an expansion that the
// claim asks for; nil and nil when there is none. A directory has no size of
// its own, so that nothing remains to be done on the node.
func grown(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) (*corev1.PersistentVolume, *corev1.PersistentVolumeClaim) {
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	have, size := claim.Status.Capacity[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	if claim.Status.Phase != corev1.ClaimBound || want.Cmp(have) <= 0 {
		return nil, nil
	}
	var larger *corev1.PersistentVolume
	if want.Cmp(size) > 0 {
		larger = v.DeepCopy()
		larger.Spec.Capacity[corev1.ResourceStorage] = want
		size = want
	}
	out := claim.DeepCopy()
	out.Status.Capacity[corev1.ResourceStorage] = size
	out.Status.Conditions = slices.DeleteFunc(out.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimResizing || c.Type == corev1.PersistentVolumeClaimFileSystemResizePending
	})
	return larger, out
}
