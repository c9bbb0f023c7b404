package plugins

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// newest is the order of default classes: the one made last comes first, then
// by name.
func newest[T client.Object](a, b T) int {
	return cmp.Or(b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time), cmp.Compare(a.GetName(), b.GetName()))
}

// defaultStorageClass gives claims that name no class the default one.
func defaultStorageClass(d deps) *plugin {
	return &plugin{ops: ops(admission.Create), admit: func(ctx context.Context, a *admission.Attributes) error {
		pvc, ok := a.Object.(*corev1.PersistentVolumeClaim)
		if !ok || a.Subresource != "" || pvc.Spec.StorageClassName != nil {
			return nil
		}
		if _, ok := pvc.Annotations[corev1.BetaStorageClassAnnotation]; ok {
			return nil
		}
		all, err := list(ctx, client.StorageClasses.In(d.door, ""))
		if err != nil {
			return forbidden(a, err)
		}
		defaults := slices.DeleteFunc(all, func(c *storagev1.StorageClass) bool {
			return c.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" &&
				c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] != "true"
		})
		if len(defaults) > 0 {
			pvc.Spec.StorageClassName = new(slices.MinFunc(defaults, newest).Name)
		}
		return nil
	}}
}

// defaultIngressClass gives ingresses that name no class the default one.
func defaultIngressClass(d deps) *plugin {
	return &plugin{ops: ops(admission.Create), admit: func(ctx context.Context, a *admission.Attributes) error {
		ing, ok := a.Object.(*networkingv1.Ingress)
		if !ok || a.Subresource != "" || ing.Spec.IngressClassName != nil {
			return nil
		}
		if _, ok := ing.Annotations["kubernetes.io/ingress.class"]; ok {
			return nil
		}
		all, err := list(ctx, client.IngressClasses.In(d.door, ""))
		if err != nil {
			return forbidden(a, err)
		}
		defaults := slices.DeleteFunc(all, func(c *networkingv1.IngressClass) bool {
			return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true"
		})
		if len(defaults) > 0 {
			ing.Spec.IngressClassName = new(slices.MinFunc(defaults, newest).Name)
		}
		return nil
	}}
}

// storageObjectInUseProtection keeps claims, volumes and volume attributes
// classes from vanishing while they are in use.
func storageObjectInUseProtection() *plugin {
	return &plugin{ops: ops(admission.Create), admit: func(_ context.Context, a *admission.Attributes) error {
		if a.Subresource != "" {
			return nil
		}
		var finalizer string
		switch a.Object.(type) {
		case *corev1.PersistentVolumeClaim:
			finalizer = "kubernetes.io/pvc-protection"
		case *corev1.PersistentVolume:
			finalizer = "kubernetes.io/pv-protection"
		case *storagev1.VolumeAttributesClass:
			finalizer = "kubernetes.io/vac-protection"
		default:
			return nil
		}
		obj := a.Object.(client.Object)
		if !slices.Contains(obj.GetFinalizers(), finalizer) {
			obj.SetFinalizers(append(obj.GetFinalizers(), finalizer))
		}
		return nil
	}}
}

// persistentVolumeClaimResize lets only those claims grow whose class says
// that it can.
func persistentVolumeClaimResize(d deps) *plugin {
	return &plugin{ops: ops(admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		pvc, ok := a.Object.(*corev1.PersistentVolumeClaim)
		old, ok2 := a.Old.(*corev1.PersistentVolumeClaim)
		if !ok || !ok2 || a.Subresource != "" {
			return nil
		}
		size, was := pvc.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
		if size.Cmp(was) <= 0 {
			return nil
		}
		if old.Status.Phase != corev1.ClaimBound {
			return forbid(a, "Only bound persistent volume claims can be expanded")
		}
		name := pvc.Annotations[corev1.BetaStorageClassAnnotation]
		if name == "" && pvc.Spec.StorageClassName != nil {
			name = *pvc.Spec.StorageClassName
		}
		if name != "" {
			class, err := get(ctx, client.StorageClasses.In(d.door, ""), name)
			if err != nil && !apierrors.IsNotFound(err) {
				return apierrors.NewInternalError(fmt.Errorf("look up StorageClass %q: %w", name, err))
			}
			if err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
				return nil
			}
		}
		return forbid(a, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	}}
}
