package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/podspec"
)

func validatePod(p *corev1.Pod) field.ErrorList {
	return podspec.Validate(&p.Spec, &p.ObjectMeta, field.NewPath("spec"), podspec.Options{})
}
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList       { return nil }
func validatePodStatus(p, old *corev1.Pod) field.ErrorList       { return nil }
func validateEphemeralUpdate(p, old *corev1.Pod) field.ErrorList { return nil }
func validatePodResize(p, old *corev1.Pod) field.ErrorList       { return nil }
