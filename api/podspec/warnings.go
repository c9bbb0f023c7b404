package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings returns the deprecation and usage warnings about a template or
// pod whose path is given (nil: a pod); old is nil on create.
func Warnings(t, old *corev1.PodTemplateSpec, path *field.Path) []string { return nil }
