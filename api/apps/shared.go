package apps

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/autoscaling"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

// What a status may not say of its counts.
const (
	moreThanReplicas = "cannot be greater than status.replicas"
	moreThanReady    = "cannot be greater than readyReplicas"
)

// wanted is the number of replicas asked for; only an object that has not
// been defaulted has none.
func wanted(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func scalable(replicas *int32, selector *metav1.LabelSelector, observed int32) (autoscaling.Scalable, error) {
	s, err := autoscaling.SelectorString(selector)
	return autoscaling.Scalable{Wanted: replicas, Selector: s, Observed: observed}, err
}

// templateColumns are the -o wide columns of what has a pod template and a
// selector.
func templateColumns(selector string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		printing.Wide(printing.String("Containers", "Names of each container in the template.")),
		printing.Wide(printing.String("Images", "Images referenced by each container in the template.")),
		printing.Wide(printing.String("Selector", selector)),
	}
}

// selectorCell is a selector as kubectl shows it; one that does not parse
// shows nothing.
func selectorCell(s *metav1.LabelSelector) string {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return parsed.String()
}

// templateWarnings warns about a template that is new or belongs to a new
// generation, and about the name of a new object if podNames says that its
// pods' names begin with it. prev is the stored object or nil.
func templateWarnings(o, prev runtime.Object, template *corev1.PodTemplateSpec, podNames bool) []string {
	now := o.(metav1.Object)
	if prev != nil && prev.(metav1.Object).GetGeneration() == now.GetGeneration() {
		return nil
	}
	var out []string
	if prev == nil && podNames {
		out = podspec.NameWarnings(now.GetName(), podspec.PodNames)
	}
	return append(out, podspec.Warnings(template, field.NewPath("spec", "template"))...)
}
