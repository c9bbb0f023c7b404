// Package core holds the kinds of the core group: for each a row of names,
// defaults, checks, update rules, columns and selectable fields. The rows
// flow to api/builtin, which puts them into the table.
package core

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
)

// Kinds returns fresh rows of every kind of the core group. on says which
// features of pods are on.
func Kinds(on podspec.Gates) []*api.Kind {
	return []*api.Kind{
		binding(), componentStatus(), configMap(), endpoints(), event(), limitRange(), namespace(), node(),
		persistentVolumeClaim(), persistentVolume(), pod(on), podTemplate(on), replicationController(on),
		resourceQuota(), secret(), serviceAccount(), service(),
	}
}

// gvk is a kind of core/v1.
func gvk(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }

// row begins the row of a kind that is served as core/v1 only.
func row(kind, resource, singular string, namespaced bool, prefix string, short ...string) *api.Kind {
	return &api.Kind{
		Hub: gvk(kind), HubListKind: kind + "List", Resource: resource, Singular: singular, ShortNames: short,
		Namespaced: namespaced, Prefix: prefix, Views: api.Serve(gvk(kind)),
	}
}

// The verbs of the subresources that are not whole objects.
func proxyVerbs() []string { return []string{"create", "delete", "get", "patch", "update"} }

// status makes the status subresource from a function that keeps all but the
// status of old and one that checks the result.
func status[T api.Object](keep func(obj, old T), check func(obj, old T) field.ErrorList) api.Subresource {
	return api.Subresource{Object: &api.Strategy{PrepareUpdate: api.On2(keep), ValidateUpdate: api.Check2(check)}}
}

func proxy(options string) api.Subresource {
	return api.Subresource{Verbs: proxyVerbs(), Connect: &api.Connect{
		Options: gvk(options), Path: true,
		Methods: []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"},
	}}
}

// keepMeta restores what a status update may not change in the metadata.
func keepMeta(obj, old metav1.Object) {
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetOwnerReferences(old.GetOwnerReferences())
}

func selectable[T runtime.Object](k *api.Kind, f func(T) fields.Set, names ...string) {
	k.Fields, k.FieldNames = api.Fields(f), names
}
