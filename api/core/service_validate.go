package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateService(s *corev1.Service) field.ErrorList            { return nil }
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList { return validateService(s) }
func validateServiceStatus(s, old *corev1.Service) field.ErrorList { return nil }
func serviceWarnings(s, old *corev1.Service) []string              { return nil }
func dropTypeDependent(s, old *corev1.Service)                     {}
