package controllers_test

import (
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

func TestBudgetOfADeployment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("budget"), t.Context()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	b.Spec.MaxUnavailable = ptr.To(intstr.FromString("25%"))
	_, err := client.PodDisruptionBudgets.In(w.root, ns).Create(ctx, b)
	w.must(err)
	_, err = client.Deployments.In(w.root, ns).Create(ctx, deployment(ns, "web", "v1", 4))
	w.must(err)
	object(w, client.PodDisruptionBudgets, ns, "web", "granting one of four", func(b *policyv1.PodDisruptionBudget) bool {
		s := b.Status
		return s.ExpectedPods == 4 && s.DesiredHealthy == 3 && s.CurrentHealthy == 4 && s.DisruptionsAllowed == 1 && s.Conditions[0].Reason == "SufficientPods"
	})
	_, err = client.Deployments.In(w.root, ns).Patch(ctx, "web", "application/merge-patch+json", []byte(`{"spec":{"replicas":8}}`))
	w.must(err)
	object(w, client.PodDisruptionBudgets, ns, "web", "granting two of eight", func(b *policyv1.PodDisruptionBudget) bool {
		return b.Status.ExpectedPods == 8 && b.Status.DesiredHealthy == 6 && b.Status.DisruptionsAllowed == 2
	})
}
