package main

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/apiserver/computed"
	"github.com/coxswain/cox/internal/component"
)

// componentStatuses tells how etcd, the scheduler and the controllers of this
// server fare, under the names that upstream gives them.
func (cp *controlPlane) componentStatuses(group *component.Group) computed.Source {
	return func(context.Context, computed.Query) (map[string]runtime.Object, error) {
		problem := ""
		if cp.etcd != nil && cp.etcd.Err() != nil {
			problem = cp.etcd.Err().Error()
		}
		out := map[string]runtime.Object{"etcd-0": componentStatus("etcd-0", problem)}
		for _, h := range group.Health() {
			if h.Name != "scheduler" && h.Name != "controller-manager" {
				continue
			}
			problem := ""
			if !h.Healthy {
				problem = h.Message
			}
			out[h.Name] = componentStatus(h.Name, problem)
		}
		return out, nil
	}
}

func componentStatus(name, problem string) *corev1.ComponentStatus {
	c := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if problem != "" {
		c = corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse, Error: problem}
	}
	return &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{c}}
}
