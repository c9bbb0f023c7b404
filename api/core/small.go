package core

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

// binding is posted, never stored: the old way to bind a pod to a node.
func binding() *api.Kind {
	k := row("Binding", "bindings", "binding", true, "")
	k.New, k.NewList = api.New[corev1.Binding](), api.New[corev1.Binding]()
	k.HubListKind = ""
	k.Verbs = []string{"create"}
	k.Strategy = api.Strategy{Validate: api.Check(validateBinding)}
	return k
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if k := b.Target.Kind; k != "" && k != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), k, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

// componentStatus is computed when it is read.
func componentStatus() *api.Kind {
	k := row("ComponentStatus", "componentstatuses", "componentstatus", false, "", "cs")
	k.New, k.NewList = api.New[corev1.ComponentStatus](), api.New[corev1.ComponentStatusList]()
	k.Verbs = []string{"get", "list"}
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Status", "Status of the component conditions"),
		printing.String("Message", "Message of the component conditions"),
		printing.String("Error", "Error of the component conditions"),
	}
	k.Cells = api.Cells(func(c *corev1.ComponentStatus) []any {
		state, message, problem := "Unknown", "", ""
		for _, cond := range c.Conditions {
			if cond.Type != corev1.ComponentHealthy {
				continue
			}
			state = "Unhealthy"
			if cond.Status == corev1.ConditionTrue {
				state = "Healthy"
			}
			message, problem = cond.Message, cond.Error
			break
		}
		return []any{c.Name, state, message, problem}
	})
	k.Views[0].Deprecated = "v1 ComponentStatus is deprecated in v1.19+"
	return k
}

func podTemplate(on podspec.Gates) *api.Kind {
	k := row("PodTemplate", "podtemplates", "podtemplate", true, "podtemplates")
	k.ReturnDeleted = true
	k.New, k.NewList = api.New[corev1.PodTemplate](), api.New[corev1.PodTemplateList]()
	k.Strategy = api.Strategy{
		Default: api.On(func(t *corev1.PodTemplate) { podspec.DefaultTemplate(&t.Template) }),
		PrepareCreate: api.On(func(t *corev1.PodTemplate) {
			t.Generation = 1
			on.DropDisabled(&t.Template.Spec, nil)
		}),
		PrepareUpdate: api.On2(func(t, old *corev1.PodTemplate) {
			on.DropDisabled(&t.Template.Spec, &old.Template.Spec)
			api.CountGeneration(t, old, &t.Template, &old.Template)
		}),
		Validate: api.Check(func(t *corev1.PodTemplate) field.ErrorList {
			return podspec.ValidateTemplate(&t.Template, field.NewPath("template"), podspec.Options{})
		}),
		ValidateUpdate: api.Check2(func(t, old *corev1.PodTemplate) field.ErrorList {
			return podspec.ValidateTemplate(&t.Template, field.NewPath("template"), podspec.ForUpdate(&old.Template.Spec))
		}),
		Warnings: warnings(func(t, old *corev1.PodTemplate) []string {
			if old != nil && old.Generation == t.Generation {
				return nil
			}
			return podspec.Warnings(&t.Template, field.NewPath("template"))
		}),
	}
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Containers", "Names of each container in the template."),
		printing.String("Images", "Images referenced by each container in the template."),
		printing.String("Pod Labels", "The labels for the pod template."),
	}
	k.Cells = api.Cells(func(t *corev1.PodTemplate) []any {
		names, images := printing.Containers(t.Template.Spec.Containers)
		return []any{t.Name, names, images, printing.Labels(t.Template.Labels)}
	})
	return k
}
