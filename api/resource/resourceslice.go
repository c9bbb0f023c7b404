package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func resourceSliceKind() *api.Kind {
	gvk := resourcev1.SchemeGroupVersion.WithKind("ResourceSlice")
	doc := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return &api.Kind{
		Hub: gvk, HubListKind: "ResourceSliceList",
		Resource: "resourceslices", Singular: "resourceslice",
		Prefix: "resourceslices", ReturnDeleted: true,
		New: api.New[resourcev1.ResourceSlice](), NewList: api.New[resourcev1.ResourceSliceList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(defaultSlice),
			PrepareCreate: func(o runtime.Object) {
				s := o.(*resourcev1.ResourceSlice)
				s.Generation = 1
				dropGated(s, nil)
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				s, old := o.(*resourcev1.ResourceSlice), prev.(*resourcev1.ResourceSlice)
				api.CountGeneration(s, old, s.Spec, old.Spec) // upstream counts before it drops
				dropGated(s, old)
			},
			Validate:       api.Check(validateSlice),
			ValidateUpdate: api.Check2(validateSliceUpdate),
			Warnings:       func(o, _ runtime.Object) []string { return sliceWarnings(o.(*resourcev1.ResourceSlice)) },
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Node", doc["nodeName"]),
			printing.String("Driver", doc["driver"]),
			printing.String("Pool", resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(s *resourcev1.ResourceSlice) []any {
			node := ""
			if s.Spec.NodeName != nil {
				node = *s.Spec.NodeName
			}
			return []any{s.Name, node, s.Spec.Driver, s.Spec.Pool.Name, printing.Age(s.CreationTimestamp)}
		}),
		FieldNames:   []string{resourcev1.ResourceSliceSelectorNodeName, resourcev1.ResourceSliceSelectorDriver},
		UnknownField: "field label not supported for " + gvk.String() + ": %s",
		Fields: api.Fields(func(s *resourcev1.ResourceSlice) fields.Set {
			set := fields.Set{resourcev1.ResourceSliceSelectorDriver: s.Spec.Driver, resourcev1.ResourceSliceSelectorNodeName: ""}
			if s.Spec.NodeName != nil {
				set[resourcev1.ResourceSliceSelectorNodeName] = *s.Spec.NodeName
			}
			return set
		}),
	}
}

// defaultSlice notes when taints were added (to the second, as the wire has
// it).
func defaultSlice(s *resourcev1.ResourceSlice) {
	for i := range s.Spec.Devices {
		for j := range s.Spec.Devices[i].Taints {
			if t := &s.Spec.Devices[i].Taints[j]; t.TimeAdded == nil {
				now := metav1.Now().Rfc3339Copy()
				t.TimeAdded = &now
			}
		}
	}
}

// dropGated empties the fields of features that are off in 1.36 (lists as
// attributes, KEP-5491; node allocatable resources, KEP-5517) unless the stored
// object has such.
func dropGated(s, old *resourcev1.ResourceSlice) {
	lists, mappings := gatedUse(old)
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		if !mappings {
			d.NodeAllocatableResourceMappings = nil
		}
		if lists {
			continue
		}
		for name, a := range d.Attributes {
			if a.IntValues != nil || a.BoolValues != nil || a.StringValues != nil || a.VersionValues != nil {
				a.IntValues, a.BoolValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
				d.Attributes[name] = a
			}
		}
	}
}

func gatedUse(s *resourcev1.ResourceSlice) (lists, mappings bool) {
	if s == nil {
		return false, false
	}
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		mappings = mappings || len(d.NodeAllocatableResourceMappings) > 0
		for _, a := range d.Attributes {
			lists = lists || a.IntValues != nil || a.BoolValues != nil || a.StringValues != nil || a.VersionValues != nil
		}
	}
	return lists, mappings
}
