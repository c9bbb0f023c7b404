package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateEvent(e *corev1.Event) field.ErrorList            { return nil }
func validateEventUpdate(e, old *corev1.Event) field.ErrorList { return validateEvent(e) }
