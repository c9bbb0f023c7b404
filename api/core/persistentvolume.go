package core

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

func persistentVolume() *api.Kind {
	k := row("PersistentVolume", "persistentvolumes", "persistentvolume", false, "persistentvolumes", "pv")
	k.ReturnDeleted = true
	k.New, k.NewList = api.New[corev1.PersistentVolume](), api.New[corev1.PersistentVolumeList]()
	k.Strategy = api.Strategy{
		Default: api.On(defaultPersistentVolume),
		PrepareCreate: api.On(func(v *corev1.PersistentVolume) {
			now := metav1.Now()
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
		}),
		PrepareUpdate:  api.On2(func(v, old *corev1.PersistentVolume) { v.Status = *old.Status.DeepCopy() }),
		Validate:       api.Check(validatePersistentVolume),
		ValidateUpdate: api.Check2(validatePersistentVolumeUpdate),
		Warnings:       warnings(persistentVolumeWarnings),
	}
	k.Subresources = map[string]api.Subresource{
		"status": status(func(v, old *corev1.PersistentVolume) {
			v.Spec = *old.Spec.DeepCopy()
			prepareVolumePhase(v, old)
		}, nil),
	}
	doc, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Capacity", doc["capacity"]),
		printing.String("Access Modes", doc["accessModes"]),
		printing.String("Reclaim Policy", doc["persistentVolumeReclaimPolicy"]),
		printing.String("Status", status["phase"]),
		printing.String("Claim", doc["claimRef"]),
		printing.String("StorageClass", "StorageClass of the pv"),
		printing.String("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
		printing.String("Reason", status["reason"]),
		printing.AgeColumn(),
		printing.Wide(printing.String("VolumeMode", doc["volumeMode"])),
	}
	k.Cells = api.Cells(persistentVolumeCells)
	return k
}

func persistentVolumeCells(v *corev1.PersistentVolume) []any {
	claim := ""
	if r := v.Spec.ClaimRef; r != nil {
		claim = r.Namespace + "/" + r.Name
	}
	capacity := v.Spec.Capacity[corev1.ResourceStorage]
	phase := v.Status.Phase
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	return []any{
		v.Name, capacity.String(), printing.AccessModes(v.Spec.AccessModes),
		string(v.Spec.PersistentVolumeReclaimPolicy), string(phase), claim,
		storageClass(v.Annotations, &v.Spec.StorageClassName), unset(v.Spec.VolumeAttributesClassName), v.Status.Reason,
		printing.Age(v.CreationTimestamp), unset(v.Spec.VolumeMode),
	}
}

// storageClass prefers the annotation that came before the field.
func storageClass(annotations map[string]string, name *string) string {
	if c, ok := annotations[corev1.BetaStorageClassAnnotation]; ok {
		return c
	}
	if name == nil {
		return ""
	}
	return *name
}

func unset[T ~string](s *T) string {
	if s == nil {
		return printing.Unset
	}
	return printing.Or(string(*s), printing.Unset)
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	def(&v.Status.Phase, corev1.VolumePending)
	def(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	defPtr(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	podspec.RoundUp(v.Spec.Capacity)
	podspec.DefaultPersistentSource(&v.Spec.PersistentVolumeSource)
}

// prepareVolumePhase notes when the phase changed, unless the writer did.
func prepareVolumePhase(v, old *corev1.PersistentVolume) {
	if v.Status.Phase == old.Status.Phase {
		if v.Status.LastPhaseTransitionTime == nil {
			v.Status.LastPhaseTransitionTime = old.Status.LastPhaseTransitionTime.DeepCopy()
		}
		return
	}
	if t := v.Status.LastPhaseTransitionTime; t == nil || t.Equal(old.Status.LastPhaseTransitionTime) {
		now := metav1.Now()
		v.Status.LastPhaseTransitionTime = &now
	}
}
