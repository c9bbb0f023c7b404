package storage

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

// A token lives for ten minutes at least and 2^32 seconds at most; capacity
// is read no more often than every ten seconds.
const (
	minTokenSeconds  = 10 * 60
	maxTokenSeconds  = 1 << 32
	minUpdateSeconds = 10
)

func csiDriverKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("CSIDriver")
	return &api.Kind{
		Hub: gvk, HubListKind: "CSIDriverList",
		Resource: "csidrivers", Singular: "csidriver",
		Prefix: "csidrivers", ReturnDeleted: true,
		New: api.New[storagev1.CSIDriver](), NewList: api.New[storagev1.CSIDriverList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(defaultCSIDriver),
			PrepareCreate: func(o runtime.Object) {
				d := o.(*storagev1.CSIDriver)
				d.Generation = 0
				d.Spec.PreventPodSchedulingIfMissing = nil // an alpha feature's
			},
			Warnings: func(o, prev runtime.Object) []string {
				if s := &o.(*storagev1.CSIDriver).Spec; len(s.TokenRequests) > 0 && (prev == nil || !check.Equal(s.TokenRequests, prev.(*storagev1.CSIDriver).Spec.TokenRequests)) && s.ServiceAccountTokenInSecrets == nil {
					return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
				}
				return nil
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				d, old := o.(*storagev1.CSIDriver), prev.(*storagev1.CSIDriver)
				if old.Spec.PreventPodSchedulingIfMissing == nil {
					d.Spec.PreventPodSchedulingIfMissing = nil
				}
				api.CountGeneration(d, old, d.Spec, old.Spec)
			},
			Validate: api.Check(validateCSIDriver),
			ValidateUpdate: api.Check2(func(d, old *storagev1.CSIDriver) field.ErrorList {
				path := field.NewPath("spec")
				errs := validateCSIDriver(d)
				errs = append(errs, check.Immutable(d.Spec.AttachRequired, old.Spec.AttachRequired, path.Child("attachedRequired"))...)
				return append(errs, check.Immutable(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, path.Child("volumeLifecycleModes"))...)
			}),
			ValidateName: func(name string, _ bool) []string {
				var out []string
				for _, e := range validateDriverName(name, field.NewPath("metadata", "name")) {
					out = append(out, e.Detail)
				}
				return out
			},
			ForbidUnconditionalUpdate: true,
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			boolean("AttachRequired", "attachRequired"),
			boolean("PodInfoOnMount", "podInfoOnMount"),
			boolean("StorageCapacity", "storageCapacity"),
			printing.String("TokenRequests", storagev1.CSIDriverSpec{}.SwaggerDoc()["tokenRequests"]),
			boolean("RequiresRepublish", "requiresRepublish"),
			printing.String("Modes", storagev1.CSIDriverSpec{}.SwaggerDoc()["volumeLifecycleModes"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(csiDriverCells),
	}
}

func boolean(name, of string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "boolean", Description: storagev1.CSIDriverSpec{}.SwaggerDoc()[of]}
}

func csiDriverCells(d *storagev1.CSIDriver) []any {
	s := &d.Spec
	var modes, audiences []string
	for _, m := range s.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	for _, t := range s.TokenRequests {
		audiences = append(audiences, t.Audience)
	}
	tokens := printing.Unset
	if len(s.TokenRequests) > 0 {
		tokens = strings.Join(audiences, ",")
	}
	return []any{
		d.Name, s.AttachRequired == nil || *s.AttachRequired, isTrue(s.PodInfoOnMount), isTrue(s.StorageCapacity), tokens,
		isTrue(s.RequiresRepublish), printing.Or(strings.Join(modes, ","), printing.None), printing.Age(d.CreationTimestamp),
	}
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	api.DefaultPtr(&s.AttachRequired, true)
	api.DefaultPtr(&s.PodInfoOnMount, false)
	api.DefaultPtr(&s.StorageCapacity, false)
	api.DefaultPtr(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	api.DefaultPtr(&s.RequiresRepublish, false)
	api.DefaultPtr(&s.SELinuxMount, false)
}

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	s, path := &d.Spec, field.NewPath("spec")
	errs := mustBeSet(s.AttachRequired, path.Child("attachedRequired"))
	errs = append(errs, mustBeSet(s.PodInfoOnMount, path.Child("podInfoOnMount"))...)
	errs = append(errs, mustBeSet(s.StorageCapacity, path.Child("storageCapacity"))...)
	if p := s.FSGroupPolicy; p != nil {
		errs = append(errs, check.OneOf(*p, path.Child("fsGroupPolicy"), storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	errs = append(errs, validateTokenRequests(s.TokenRequests, path.Child("tokenRequests"))...)
	for _, m := range s.VolumeLifecycleModes {
		errs = append(errs, check.OneOf(m, path.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	errs = append(errs, mustBeSet(s.SELinuxMount, path.Child("seLinuxMount"))...)
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < minUpdateSeconds {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *n, "must be greater than or equal to 10 seconds"))
	}
	return errs
}

func validateTokenRequests(requests []storagev1.TokenRequest, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, r := range requests {
		at := path.Index(i)
		if seen.Has(r.Audience) {
			errs = append(errs, field.Duplicate(at.Child("audience"), r.Audience))
			continue
		}
		seen.Insert(r.Audience)
		switch n := r.ExpirationSeconds; {
		case n == nil:
		case *n < minTokenSeconds:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *n, "may not specify a duration less than 10 minutes"))
		case *n > maxTokenSeconds:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *n, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}
