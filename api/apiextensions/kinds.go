// Package apiextensions holds the row of CustomResourceDefinition: definitions
// go in, defaulted and judged ones come out. What a definition defines is
// served by apiserver/crd.
package apiextensions

import (
	"slices"
	"strings"
	"time"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api"
)

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{definitionKind()}
}

func definitionKind() *api.Kind {
	gvk := extv1.SchemeGroupVersion.WithKind("CustomResourceDefinition")
	return &api.Kind{
		Hub: gvk, HubListKind: "CustomResourceDefinitionList",
		Resource: "customresourcedefinitions", Singular: "customresourcedefinition",
		ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Prefix: "apiextensions.k8s.io/customresourcedefinitions", StoredJSON: true,
		Stored: &api.StoredForm{GVK: storedGVK, FromHub: toStored}, Older: olderVersion,
		New: api.New[extv1.CustomResourceDefinition](), NewList: api.New[extv1.CustomResourceDefinitionList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			AnyFinalizer:   true,
			Default:        api.On(SetDefaults),
			PrepareCreate:  api.On(prepareCreate),
			PrepareUpdate:  api.On2(prepareUpdate),
			Validate:       api.Check(Validate),
			ValidateUpdate: api.Check2(ValidateUpdate),
			Warnings:       warnings,

			ForbidUnconditionalUpdate: true,
			// A definition goes once its objects are gone: its deletion always
			// begins only, and the finalizer keeps it from then on.
			Keep:          func(o runtime.Object) bool { return o.(*extv1.CustomResourceDefinition).DeletionTimestamp == nil },
			PrepareDelete: api.On(prepareDelete),
		},
		Subresources: map[string]api.Subresource{"status": {Untabled: true, Object: &api.Strategy{
			PrepareUpdate:             api.On2(prepareStatus),
			ForbidUnconditionalUpdate: true,
		}}},
		Columns: []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
			{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
		},
		Cells: api.Cells(func(d *extv1.CustomResourceDefinition) []any {
			return []any{d.Name, d.CreationTimestamp.UTC().Format(time.RFC3339)}
		}),
	}
}

// SetDefaults sets the defaults of apiextensions.k8s.io/v1.
func SetDefaults(d *extv1.CustomResourceDefinition) {
	n := &d.Spec.Names
	api.DefaultValue(&n.Singular, strings.ToLower(n.Kind))
	if n.Kind != "" {
		api.DefaultValue(&n.ListKind, n.Kind+"List")
	}
	if d.Spec.Conversion == nil {
		d.Spec.Conversion = &extv1.CustomResourceConversion{Strategy: extv1.NoneConverter}
	}
	// What says nothing the form that all versions of the API share does not hold.
	if w := d.Spec.Conversion.Webhook; w != nil && w.ClientConfig == nil && len(w.ConversionReviewVersions) == 0 {
		d.Spec.Conversion.Webhook = nil
	}
	if w := d.Spec.Conversion.Webhook; w != nil && w.ClientConfig != nil && w.ClientConfig.Service != nil {
		api.DefaultPtr(&w.ClientConfig.Service.Port, 443)
	}
}

func prepareCreate(d *extv1.CustomResourceDefinition) {
	d.Status = extv1.CustomResourceDefinitionStatus{}
	d.Generation = 1
	noteStored(d)
}

func prepareUpdate(d, old *extv1.CustomResourceDefinition) {
	d.Status = *old.Status.DeepCopy()
	api.CountGeneration(d, old, d.Spec, old.Spec)
	noteStored(d)
}

// noteStored remembers that objects may be stored in the storage version.
func noteStored(d *extv1.CustomResourceDefinition) {
	for _, v := range d.Spec.Versions {
		if !v.Storage {
			continue
		}
		if !slices.Contains(d.Status.StoredVersions, v.Name) {
			d.Status.StoredVersions = append(d.Status.StoredVersions, v.Name)
		}
		return
	}
}

func prepareStatus(d, old *extv1.CustomResourceDefinition) {
	managed := d.ManagedFields
	resourceVersion, finalizers := d.ResourceVersion, d.Finalizers
	d.ObjectMeta = *old.ObjectMeta.DeepCopy()
	d.ManagedFields, d.ResourceVersion = managed, resourceVersion
	if old.DeletionTimestamp != nil {
		// The clean-up takes its finalizer away together with its last word.
		d.Finalizers = finalizers
	}
	d.Spec = *old.Spec.DeepCopy()
	noteStored(d)
}

// prepareDelete begins a deletion: the objects go first.
func prepareDelete(d *extv1.CustomResourceDefinition) {
	for _, f := range d.Finalizers {
		if f == extv1.CustomResourceCleanupFinalizer {
			return
		}
	}
	d.Finalizers = append(d.Finalizers, extv1.CustomResourceCleanupFinalizer)
	SetCondition(d, extv1.Terminating, extv1.ConditionTrue, "InstanceDeletionPending", "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon")
}

// SetCondition sets a condition of a definition and says whether it changed;
// the time of transition is now if the status did.
func SetCondition(d *extv1.CustomResourceDefinition, t extv1.CustomResourceDefinitionConditionType, s extv1.ConditionStatus, reason, message string) bool {
	c := extv1.CustomResourceDefinitionCondition{Type: t, Status: s, Reason: reason, Message: message, LastTransitionTime: metav1.Now().Rfc3339Copy()}
	for i := range d.Status.Conditions {
		old := &d.Status.Conditions[i]
		if old.Type != t {
			continue
		}
		if old.Status == s {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.ObservedGeneration = old.ObservedGeneration
		changed := *old != c
		*old = c
		return changed
	}
	d.Status.Conditions = append(d.Status.Conditions, c)
	return true
}

// Is says whether a condition of a definition is true.
func Is(d *extv1.CustomResourceDefinition, t extv1.CustomResourceDefinitionConditionType) bool {
	for i := range d.Status.Conditions {
		if c := &d.Status.Conditions[i]; c.Type == t {
			return c.Status == extv1.ConditionTrue
		}
	}
	return false
}
