package apiextensions

import (
	hub "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// storedGVK is the version in which 1.36 keeps definitions in etcd, years
// after it was served last.
var storedGVK = extv1beta1.SchemeGroupVersion.WithKind("CustomResourceDefinition")

// toHub converts a definition to the form that all versions share. It only
// reads its argument, with which the result shares memory.
func toHub(d *extv1.CustomResourceDefinition) (*hub.CustomResourceDefinition, error) {
	out := &hub.CustomResourceDefinition{}
	return out, extv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(d, out, nil)
}

// toStored converts a definition for the store. It only reads its argument,
// with which the result shares memory.
func toStored(o runtime.Object) (runtime.Object, error) {
	mid, err := toHub(o.(*extv1.CustomResourceDefinition))
	if err != nil {
		return nil, err
	}
	out := &extv1beta1.CustomResourceDefinition{}
	return out, extv1beta1.Convert_apiextensions_CustomResourceDefinition_To_v1beta1_CustomResourceDefinition(mid, out, nil)
}

// olderVersion reads what toStored has written, here or upstream.
func olderVersion(gvk schema.GroupVersionKind) (runtime.Object, func(runtime.Object) (runtime.Object, error)) {
	if gvk != storedGVK {
		return nil, nil
	}
	return &extv1beta1.CustomResourceDefinition{}, fromStored
}

func fromStored(o runtime.Object) (runtime.Object, error) {
	in := o.(*extv1beta1.CustomResourceDefinition)
	extv1beta1.SetObjectDefaults_CustomResourceDefinition(in)
	var mid hub.CustomResourceDefinition
	if err := extv1beta1.Convert_v1beta1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(in, &mid, nil); err != nil {
		return nil, err
	}
	out := &extv1.CustomResourceDefinition{}
	return out, extv1.Convert_apiextensions_CustomResourceDefinition_To_v1_CustomResourceDefinition(&mid, out, nil)
}
