package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

func resourceQuota() *api.Kind {
	k := row("ResourceQuota", "resourcequotas", "resourcequota", true, "resourcequotas", "quota")
	k.ReturnDeleted = true
	k.New, k.NewList = api.New[corev1.ResourceQuota](), api.New[corev1.ResourceQuotaList]()
	k.Strategy = api.Strategy{
		Default: api.On(func(q *corev1.ResourceQuota) {
			podspec.RoundUp(q.Spec.Hard)
			podspec.RoundUp(q.Status.Hard)
			podspec.RoundUp(q.Status.Used)
		}),
		PrepareCreate:  api.On(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
		PrepareUpdate:  api.On2(func(q, old *corev1.ResourceQuota) { q.Status = *old.Status.DeepCopy() }),
		Validate:       api.Check(validateQuota),
		ValidateUpdate: api.Check2(validateQuotaUpdate),
	}
	k.Subresources = map[string]api.Subresource{
		"status": status(func(q, old *corev1.ResourceQuota) { q.Spec = *old.Spec.DeepCopy() }, validateQuotaStatus),
	}
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
		printing.String("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
		printing.AgeColumn(),
	}
	k.Cells = api.Cells(func(q *corev1.ResourceQuota) []any {
		var request, limit []string
		for _, name := range sets.List(sets.KeySet(q.Status.Hard)) {
			used, hard := q.Status.Used[name], q.Status.Hard[name]
			cell := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
			if strings.HasPrefix(string(name), "limits.") {
				limit = append(limit, cell)
			} else {
				request = append(request, cell)
			}
		}
		return []any{q.Name, strings.Join(request, ", "), strings.Join(limit, ", "), printing.Age(q.CreationTimestamp)}
	})
	return k
}
