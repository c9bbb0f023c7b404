package expression

import (
	"k8s.io/apimachinery/pkg/runtime"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

// object declares a structure of optional fields.
func object(name string, fields map[string]*apiservercel.DeclType) *apiservercel.DeclType {
	decl := make(map[string]*apiservercel.DeclField, len(fields))
	for f, t := range fields {
		decl[f] = apiservercel.NewDeclField(f, t, false, nil, nil)
	}
	return apiservercel.NewObjectType(name, decl)
}

func listOf(t *apiservercel.DeclType) *apiservercel.DeclType { return apiservercel.NewListType(t, -1) }

func stringMap(v *apiservercel.DeclType) *apiservercel.DeclType {
	return apiservercel.NewMapType(apiservercel.StringType, v, -1)
}

// requestType is the type of request: an admission.k8s.io/v1 AdmissionRequest
// without its objects.
func requestType() *apiservercel.DeclType {
	str, yes := apiservercel.StringType, apiservercel.BoolType
	triple := func(name, third string) *apiservercel.DeclType {
		return object(name, map[string]*apiservercel.DeclType{"group": str, "version": str, third: str})
	}
	kind, resource := triple("kubernetes.GroupVersionKind", "kind"), triple("kubernetes.GroupVersionResource", "resource")
	user := object("kubernetes.UserInfo", map[string]*apiservercel.DeclType{
		"username": str, "uid": str, "groups": listOf(str), "extra": stringMap(listOf(str)),
	})
	return object("kubernetes.AdmissionRequest", map[string]*apiservercel.DeclType{
		"kind": kind, "resource": resource, "subResource": str,
		"requestKind": kind, "requestResource": resource, "requestSubResource": str,
		"name": str, "namespace": str, "operation": str, "userInfo": user,
		"dryRun": yes, "options": apiservercel.DynType,
	})
}

// namespaceType is the type of namespaceObject.
func namespaceType() *apiservercel.DeclType {
	str, number, stamp := apiservercel.StringType, apiservercel.IntType, apiservercel.TimestampType
	meta := object("kubernetes.NamespaceMetadata", map[string]*apiservercel.DeclType{
		"name": str, "generateName": str, "namespace": str, "labels": stringMap(str), "annotations": stringMap(str),
		"UID": str, "creationTimestamp": stamp, "deletionGracePeriodSeconds": number, "deletionTimestamp": stamp,
		"generation": number, "resourceVersion": str, "finalizers": listOf(str),
	})
	condition := object("kubernetes.NamespaceCondition", map[string]*apiservercel.DeclType{
		"status": str, "type": str, "lastTransitionTime": stamp, "message": str, "reason": str,
	})
	return object("kubernetes.Namespace", map[string]*apiservercel.DeclType{
		"metadata": meta,
		"spec":     object("kubernetes.NamespaceSpec", map[string]*apiservercel.DeclType{"finalizers": listOf(str)}),
		"status":   object("kubernetes.NamespaceStatus", map[string]*apiservercel.DeclType{"conditions": listOf(condition), "phase": str}),
	})
}

// Value shows an object to expressions: as what its JSON form says, nil for
// none. The object is only read.
func Value(obj runtime.Object) (any, error) {
	if obj == nil {
		return nil, nil
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
}
