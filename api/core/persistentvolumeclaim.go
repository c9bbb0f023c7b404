package core

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

func persistentVolumeClaim() *api.Kind {
	k := row("PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim", true, "persistentvolumeclaims", "pvc")
	k.ReturnDeleted = true
	k.New, k.NewList = api.New[corev1.PersistentVolumeClaim](), api.New[corev1.PersistentVolumeClaimList]()
	k.Strategy = api.Strategy{
		Default: api.On(func(c *corev1.PersistentVolumeClaim) {
			def(&c.Status.Phase, corev1.ClaimPending)
			podspec.DefaultClaimSpec(&c.Spec)
			podspec.RoundUp(c.Status.Capacity)
			podspec.RoundUp(c.Status.AllocatedResources)
		}),
		PrepareCreate: api.On(func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
			if r := c.Spec.DataSourceRef; r != nil && r.Namespace != nil && *r.Namespace != "" {
				c.Spec.DataSourceRef = nil // sources in other namespaces are an alpha feature
			}
			dropForeignSource(&c.Spec)
			normalizeDataSources(&c.Spec)
		}),
		PrepareUpdate: api.On2(func(c, old *corev1.PersistentVolumeClaim) {
			c.Status = *old.Status.DeepCopy()
			if o := old.Spec.DataSource; o == nil {
				dropForeignSource(&c.Spec)
			}
			normalizeDataSources(&c.Spec)
		}),
		Validate:       api.Check(validateClaim),
		ValidateUpdate: api.Check2(validateClaimUpdate),
		Warnings:       warnings(claimWarnings),
	}
	k.Subresources = map[string]api.Subresource{
		"status": status(func(c, old *corev1.PersistentVolumeClaim) { c.Spec = *old.Spec.DeepCopy() }, validateClaimStatus),
	}
	doc, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Status", status["phase"]),
		printing.String("Volume", doc["volumeName"]),
		printing.String("Capacity", status["capacity"]),
		printing.String("Access Modes", status["accessModes"]),
		printing.String("StorageClass", "StorageClass of the pvc"),
		printing.String("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
		printing.AgeColumn(),
		printing.Wide(printing.String("VolumeMode", doc["volumeMode"])),
	}
	k.Cells = api.Cells(claimCells)
	return k
}

func claimCells(c *corev1.PersistentVolumeClaim) []any {
	phase, capacity, modes := c.Status.Phase, "", ""
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	if c.Spec.VolumeName != "" {
		modes = printing.AccessModes(c.Status.AccessModes)
		q := c.Status.Capacity[corev1.ResourceStorage]
		capacity = q.String()
	}
	return []any{
		c.Name, string(phase), c.Spec.VolumeName, capacity, modes, storageClass(c.Annotations, c.Spec.StorageClassName),
		unset(c.Spec.VolumeAttributesClassName), printing.Age(c.CreationTimestamp), unset(c.Spec.VolumeMode),
	}
}

// dropForeignSource drops what is no claim and no snapshot from the older of
// the two fields, where it is only ignored; the newer one refuses it.
func dropForeignSource(spec *corev1.PersistentVolumeClaimSpec) {
	if s := spec.DataSource; s != nil && spec.DataSourceRef == nil {
		group := ""
		if s.APIGroup != nil {
			group = *s.APIGroup
		}
		if !(s.Kind == "PersistentVolumeClaim" && group == "" || s.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io") {
			spec.DataSource = nil
		}
	}
}

// normalizeDataSources makes dataSource and dataSourceRef say the same, as
// the API page of the claim describes: either fills the other, except that a
// reference into another namespace has no short form.
func normalizeDataSources(spec *corev1.PersistentVolumeClaimSpec) {
	if spec.DataSource != nil && spec.DataSourceRef == nil {
		spec.DataSourceRef = &corev1.TypedObjectReference{Kind: spec.DataSource.Kind, Name: spec.DataSource.Name}
		if g := spec.DataSource.APIGroup; g != nil {
			group := *g
			spec.DataSourceRef.APIGroup = &group
		}
		return
	}
	if r := spec.DataSourceRef; r != nil && spec.DataSource == nil && (r.Namespace == nil || *r.Namespace == "") {
		spec.DataSource = &corev1.TypedLocalObjectReference{Kind: r.Kind, Name: r.Name}
		if r.APIGroup != nil {
			group := *r.APIGroup
			spec.DataSource.APIGroup = &group
		}
	}
}
