package apiserver_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/actions"
	"github.com/coxswain/cox/client"
)

// What an eviction notes in a pod is nobody's field, and one that takes the
// last disruption of a budget says so in the budget.
func TestEviction(t *testing.T) {
	var evict apiserver.ActionFunc
	var pods func(client.Interface) apiserver.ActionFunc
	w := builtinWorld(t, func(c *apiserver.Config) {
		c.Extensions.Actions = map[string]apiserver.ActionFunc{"pods/eviction": func(ctx context.Context, req *client.Request) (*client.Result, error) {
			return evict(ctx, req)
		}}
		r, ok := c.Table.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"})
		if !ok {
			t.Fatal("the table has no pods")
		}
		stored := c.Store(r.Kind)
		pods = func(root client.Interface) apiserver.ActionFunc { return actions.Eviction(root, stored, time.Now) }
	})
	evict = pods(w.local)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	running := func(name string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "a"}, Finalizers: []string{"example.com/stays"}}}
		p.Spec.NodeName, p.Spec.Containers = "n", []corev1.Container{{Name: "c", Image: "i"}}
		p, err := client.Pods.In(w.local, "default").Create(ctx, p)
		must(err)
		p = p.DeepCopy()
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		_, err = client.Pods.In(w.local, "default").UpdateStatus(ctx, p)
		must(err)
	}
	running("p")
	running("q")
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	b, err := client.PodDisruptionBudgets.In(w.local, "default").Create(ctx, b)
	must(err)
	b = b.DeepCopy()
	b.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2,
	}
	_, err = client.PodDisruptionBudgets.In(w.local, "default").UpdateStatus(ctx, b)
	must(err)

	before, err := client.Pods.In(w.local, "default").Get(ctx, "p")
	must(err)
	ask := func(name string) error {
		_, err := w.local.Do(ctx, &client.Request{
			Verb: client.Create, Resource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Subresource: "eviction",
			Namespace: "default", Name: name, Object: &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}},
		})
		return err
	}
	must(ask("p"))
	p, err := client.Pods.In(w.local, "default").Get(ctx, "p")
	must(err)
	marked := false
	for _, c := range p.Status.Conditions {
		marked = marked || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "EvictionByEvictionAPI"
	}
	if !marked || p.DeletionTimestamp == nil {
		t.Errorf("evicted: conditions %+v, deleted %v", p.Status.Conditions, p.DeletionTimestamp)
	}
	if len(p.ManagedFields) != len(before.ManagedFields) {
		t.Fatalf("owners after the eviction: %+v", p.ManagedFields)
	}
	for i, f := range p.ManagedFields {
		if was := before.ManagedFields[i]; f.Manager != was.Manager || string(f.FieldsV1.Raw) != string(was.FieldsV1.Raw) {
			t.Errorf("owner after the eviction: %s %s, before: %s %s", f.Manager, f.FieldsV1.Raw, was.Manager, was.FieldsV1.Raw)
		}
	}

	b, err = client.PodDisruptionBudgets.In(w.local, "default").Get(ctx, "b")
	must(err)
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if _, noted := b.Status.DisruptedPods["p"]; !noted || b.Status.DisruptionsAllowed != 0 || c == nil || c.Status != metav1.ConditionFalse || c.Reason != policyv1.InsufficientPodsReason {
		t.Errorf("the budget after its last disruption: %+v", b.Status)
	}
	if err := ask("q"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("an eviction beyond the budget: %v", err)
	}
}
