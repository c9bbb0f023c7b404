package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

// maxNodeID is the length of a node's name in a driver, by the CSI
// specification (since 1.4; 192 before).
const maxNodeID = 256

func csiNodeKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("CSINode")
	return &api.Kind{
		Hub: gvk, HubListKind: "CSINodeList",
		Resource: "csinodes", Singular: "csinode",
		Prefix: "csinodes", ReturnDeleted: true,
		New: api.New[storagev1.CSINode](), NewList: api.New[storagev1.CSINodeList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			ForbidUnconditionalUpdate: true,
			Validate:                  api.Check(validateCSINode),
			ValidateUpdate:            api.Check2(validateCSINodeUpdate),
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.Integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node"),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(n *storagev1.CSINode) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), printing.Age(n.CreationTimestamp)}
		}),
	}
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, validateDriverName(d.Name, at.Child("name"))...)
		if d.NodeID == "" {
			errs = append(errs, field.Required(at.Child("nodeID"), d.NodeID))
		} else if len(d.NodeID) > maxNodeID {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, "must be 256 characters or less"))
		}
		if d.Allocatable != nil {
			errs = append(errs, check.NonNegativePtr(d.Allocatable.Count, at.Child("allocatable", "count"))...)
		}
		if seen.Has(d.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		seen.Insert(d.Name)
		keys := sets.New[string]()
		for _, k := range d.TopologyKeys {
			if k == "" {
				errs = append(errs, field.Required(at, k))
			}
			if keys.Has(k) {
				errs = append(errs, field.Duplicate(at, k))
			}
			keys.Insert(k)
			errs = append(errs, check.Each(at, k, validation.IsQualifiedName(k))...)
		}
	}
	return errs
}

// validateCSINodeUpdate lets drivers come and go, but not change, save for
// how many volumes they can attach.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	errs := validateCSINode(n)
	for i := range n.Spec.Drivers {
		d := n.Spec.Drivers[i]
		for _, o := range old.Spec.Drivers {
			if o.Name != d.Name {
				continue
			}
			d.Allocatable, o.Allocatable = nil, nil
			errs = append(errs, check.Immutable(d, o, field.NewPath("spec", "drivers"))...)
		}
	}
	return errs
}
