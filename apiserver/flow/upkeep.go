package flow

import (
	"fmt"
	"strconv"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// mandatory says whether an object must be there whatever its owner says: the
// two levels and schemas of these names.
func mandatory(name string) bool {
	return name == flowcontrolv1.PriorityLevelConfigurationNameExempt || name == flowcontrolv1.PriorityLevelConfigurationNameCatchAll
}

// writes are what is to be done about the objects of one kind.
type writes[T client.Object] struct {
	create, update []T
	status         []condition
}

// condition is what the status of an object lacks.
type condition struct {
	name string
	flowcontrolv1.FlowSchemaCondition
}

// plan says what is to be written so that the default objects are as they
// should be and every schema's status says whether its level exists. What it
// is given is read only.
func plan(levels []*flowcontrolv1.PriorityLevelConfiguration, schemas []*flowcontrolv1.FlowSchema) (writes[*flowcontrolv1.PriorityLevelConfiguration], writes[*flowcontrolv1.FlowSchema]) {
	var wl writes[*flowcontrolv1.PriorityLevelConfiguration]
	var ws writes[*flowcontrolv1.FlowSchema]
	haveLevel, haveSchema := byName(levels), byName(schemas)
	exists := map[string]bool{}
	for name := range haveLevel {
		exists[name] = true
	}
	for _, want := range DefaultLevels() {
		exists[want.Name] = true
		have, ok := haveLevel[want.Name]
		if !ok {
			wl.create = append(wl.create, want)
			continue
		}
		if want.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt && have.Spec.Exempt != nil {
			want.Spec.Exempt = have.Spec.Exempt.DeepCopy() // the shares are the operator's
		}
		fixed := have.DeepCopy()
		if maintain(fixed) {
			fixed.Spec = want.Spec
		}
		if !equality.Semantic.DeepEqual(fixed, have) {
			wl.update = append(wl.update, fixed)
		}
	}
	for _, want := range DefaultSchemas() {
		have, ok := haveSchema[want.Name]
		if !ok {
			ws.create = append(ws.create, want)
			continue
		}
		fixed := have.DeepCopy()
		if maintain(fixed) {
			fixed.Spec = want.Spec
		}
		if !equality.Semantic.DeepEqual(fixed, have) {
			ws.update = append(ws.update, fixed)
		}
	}
	for _, s := range schemas {
		if c := dangling(s, exists[s.Spec.PriorityLevelConfiguration.Name]); c != nil {
			ws.status = append(ws.status, condition{s.Name, *c})
		}
	}
	return wl, ws
}

func byName[T client.Object](list []T) map[string]T {
	out := map[string]T{}
	for _, o := range list {
		out[o.GetName()] = o
	}
	return out
}

// maintain says whether the spec of a default object is to be kept as it is by
// default, and writes down in the object whether it is: always for a mandatory
// one, else as the annotation says, which is made up for by whether the object
// has ever been changed. See AutoUpdateAnnotationKey.
func maintain(o client.Object) bool {
	a := o.GetAnnotations()
	auto, err := strconv.ParseBool(a[flowcontrolv1.AutoUpdateAnnotationKey])
	switch {
	case mandatory(o.GetName()):
		if err == nil && auto {
			return true
		}
		auto = true
	case err == nil:
		return auto
	default:
		auto = o.GetGeneration() == 1
	}
	if a == nil {
		a = map[string]string{}
	}
	a[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(auto)
	o.SetAnnotations(a)
	return auto
}

// dangling is the condition that a schema lacks; nil if it has it.
func dangling(s *flowcontrolv1.FlowSchema, exists bool) *flowcontrolv1.FlowSchemaCondition {
	level := s.Spec.PriorityLevelConfiguration.Name
	want := &flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", level),
	}
	if !exists {
		want.Status, want.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		want.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", level)
	}
	want.LastTransitionTime = metav1.Now()
	for _, c := range s.Status.Conditions {
		if c.Type != want.Type {
			continue
		}
		if c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message {
			return nil
		}
		if c.Status == want.Status {
			want.LastTransitionTime = c.LastTransitionTime
		}
	}
	return want
}
