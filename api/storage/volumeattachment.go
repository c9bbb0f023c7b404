package storage

import (
	"math"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

const (
	maxAttachmentMetadata = 256 * 1024
	maxVolumeError        = 1024
)

func volumeAttachmentKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("VolumeAttachment")
	return &api.Kind{
		Hub: gvk, HubListKind: "VolumeAttachmentList",
		Resource: "volumeattachments", Singular: "volumeattachment",
		Prefix: "volumeattachments", ReturnDeleted: true,
		New: api.New[storagev1.VolumeAttachment](), NewList: api.New[storagev1.VolumeAttachmentList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			ForbidUnconditionalUpdate: true,
			Default: api.On(func(a *storagev1.VolumeAttachment) {
				if s := a.Spec.Source.InlineVolumeSpec; s != nil {
					podspec.RoundUp(s.Capacity)
					podspec.DefaultPersistentSource(&s.PersistentVolumeSource)
				}
			}),
			PrepareCreate: func(o runtime.Object) {
				o.(*storagev1.VolumeAttachment).Status = storagev1.VolumeAttachmentStatus{}
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				prev.(*storagev1.VolumeAttachment).Status.DeepCopyInto(&o.(*storagev1.VolumeAttachment).Status)
			},
			Validate:       api.Check(validateVolumeAttachment),
			ValidateUpdate: api.Check2(validateVolumeAttachmentUpdate),
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				ForbidUnconditionalUpdate: true,
				Resets:                    []string{"spec", "metadata"},
				PrepareUpdate: func(o, prev runtime.Object) {
					a, old := o.(*storagev1.VolumeAttachment), prev.(*storagev1.VolumeAttachment)
					old.Spec.DeepCopyInto(&a.Spec)
					a.OwnerReferences, a.Labels = old.OwnerReferences, old.Labels
				},
				ValidateUpdate: api.Check2(validateVolumeAttachmentUpdate),
			}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			{Name: "Attacher", Type: "string", Format: "name", Description: storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["attacher"]},
			printing.String("PV", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
			printing.String("Node", storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["nodeName"]),
			{Name: "Attached", Type: "boolean", Description: storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]},
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(a *storagev1.VolumeAttachment) []any {
			pv := ""
			if n := a.Spec.Source.PersistentVolumeName; n != nil {
				pv = *n
			}
			return []any{a.Name, a.Spec.Attacher, pv, a.Spec.NodeName, a.Status.Attached, printing.Age(a.CreationTimestamp)}
		}),
	}
}

func validateVolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateDriverName(a.Spec.Attacher, path.Child("attacher"))
	if a.Spec.Attacher != "" {
		errs = append(errs, validateQualified(a.Spec.Attacher, path.Child("attacher"))...)
	}
	source := path.Child("source")
	switch name, inline := a.Spec.Source.PersistentVolumeName, a.Spec.Source.InlineVolumeSpec; {
	case name == nil && inline == nil:
		errs = append(errs, field.Required(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case name != nil && inline != nil:
		errs = append(errs, field.Forbidden(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case name != nil:
		if *name == "" {
			errs = append(errs, field.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
		}
		errs = append(errs, check.Each(source.Child("persistentVolumeName"), *name, validation.IsDNS1123Subdomain(*name))...)
	}
	errs = append(errs, check.Each(path.Child("nodeName"), a.Spec.NodeName, validation.IsDNS1123Subdomain(a.Spec.NodeName))...)
	return append(errs, validateAttachmentStatus(&a.Status, field.NewPath("status"))...)
}

func validateAttachmentStatus(s *storagev1.VolumeAttachmentStatus, path *field.Path) field.ErrorList {
	size := 0
	for k, v := range s.AttachmentMetadata {
		size += len(k) + len(v)
	}
	var errs field.ErrorList
	if size > maxAttachmentMetadata {
		errs = append(errs, field.TooLong(path.Child("attachmentMetadata"), "" /*unused*/, maxAttachmentMetadata))
	}
	for name, e := range map[string]*storagev1.VolumeError{"attachError": s.AttachError, "detachError": s.DetachError} {
		if e != nil && len(e.Message) > maxVolumeError {
			errs = append(errs, field.TooLong(path.Child(name, "message"), "" /*unused*/, maxVolumeError))
		}
		if e != nil && e.ErrorCode != nil && *e.ErrorCode < 0 {
			errs = append(errs, field.Invalid(path.Child(name, "errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	return errs
}

func validateVolumeAttachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	errs := validateVolumeAttachment(a)
	if !check.Equal(a.Spec, old.Spec) {
		errs = append(errs, field.Invalid(field.NewPath("spec"), check.Shown(a.Spec), "field is immutable"))
	}
	return errs
}
