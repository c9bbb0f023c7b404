package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateNode(n *corev1.Node) field.ErrorList            { return nil }
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList { return nil }
func nodeWarnings(n, _ *corev1.Node) []string                { return nil }
