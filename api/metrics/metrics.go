// Package metrics holds the rows of metrics.k8s.io, whose objects are
// measured when they are asked for and stored nowhere: measures go in, printed
// ones come out. The group is not one of Kubernetes' own; metrics-server
// serves it where this server's is replaced through its APIService.
package metrics

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind { return []*api.Kind{nodes(), pods()} }

func nodes() *api.Kind {
	k := row("NodeMetrics", "nodes", "node")
	k.New, k.NewList = api.New[metricsv1beta1.NodeMetrics](), api.New[metricsv1beta1.NodeMetricsList]()
	k.Cells = api.Cells(func(m *metricsv1beta1.NodeMetrics) []any {
		return append([]any{m.Name}, cells(m.Usage, m.Window)...)
	})
	return k
}

func pods() *api.Kind {
	k := row("PodMetrics", "pods", "pod")
	k.Namespaced = true
	k.New, k.NewList = api.New[metricsv1beta1.PodMetrics](), api.New[metricsv1beta1.PodMetricsList]()
	k.Cells = api.Cells(func(m *metricsv1beta1.PodMetrics) []any {
		sum := corev1.ResourceList{}
		for _, c := range m.Containers {
			for name, q := range c.Usage {
				total := sum[name]
				total.Add(q)
				sum[name] = total
			}
		}
		return append([]any{m.Name}, cells(sum, m.Window)...)
	})
	return k
}

func row(kind, resource, singular string) *api.Kind {
	gvk := metricsv1beta1.SchemeGroupVersion.WithKind(kind)
	return &api.Kind{
		Hub: gvk, HubListKind: kind + "List", Resource: resource, Singular: singular,
		Views: api.Serve(gvk), Verbs: []string{"get", "list"},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String(string(corev1.ResourceCPU), "CPU usage"),
			printing.String(string(corev1.ResourceMemory), "Memory usage"),
			printing.String("Window", "Duration over which metrics have been gathered"),
		},
	}
}

// cells are a measure's columns behind the name.
func cells(usage corev1.ResourceList, window metav1.Duration) []any {
	cpu, memory := usage[corev1.ResourceCPU], usage[corev1.ResourceMemory]
	return []any{cpu.String(), memory.String(), window.Duration.String()}
}
