package core

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

// eventTTL is how long events are kept, in seconds.
const eventTTL = 3600

func event() *api.Kind {
	k := row("Event", "events", "event", true, "events", "ev")
	k.New, k.NewList = api.New[corev1.Event](), api.New[corev1.EventList]()
	k.TTL = eventTTL
	k.Views = append(k.Views, api.View{
		GroupVersionKind: eventsv1.SchemeGroupVersion.WithKind("Event"),
		New:              api.New[eventsv1.Event](), NewList: api.New[eventsv1.EventList](),
		ToHub: eventToHub, FromHub: eventFromHub, Check: checkEventsV1,
	})
	k.Strategy = api.Strategy{
		AnyFinalizer:        true,
		LateMetadata:        true,
		Validate:            api.Check(validateEvent),
		ValidateUpdate:      api.Check2(validateEventUpdate),
		AllowCreateOnUpdate: true,
		NoPropagation:       true,
	}
	// Each version selects by its own names of the same fields.
	v1, events := &k.Views[0], &k.Views[len(k.Views)-1]
	v1.FieldNames = []string{"reason", "type", "reportingComponent", "source"}
	events.FieldNames = []string{"reason", "type", "reportingController"}
	for _, f := range []string{"kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"} {
		v1.FieldNames = append(v1.FieldNames, "involvedObject."+f)
		events.FieldNames = append(events.FieldNames, "regarding."+f)
	}
	selectable(k, eventFields, slices.Concat(v1.FieldNames, events.FieldNames[2:])...)
	doc := corev1.Event{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		printing.String("Last Seen", doc["lastTimestamp"]),
		printing.String("Type", doc["type"]),
		printing.String("Reason", doc["reason"]),
		printing.String("Object", doc["involvedObject"]),
		printing.Wide(printing.String("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"])),
		printing.Wide(printing.String("Source", doc["source"])),
		printing.String("Message", doc["message"]),
		printing.Wide(printing.String("First Seen", doc["firstTimestamp"])),
		printing.Wide(printing.String("Count", doc["count"])),
		printing.Wide(printing.Name()),
	}
	k.Cells = api.Cells(eventCells)
	return k
}

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	o := &e.InvolvedObject
	set := fields.Set{
		"reason": e.Reason, "type": e.Type, "source": source,
		"reportingComponent": e.ReportingController, "reportingController": e.ReportingController,
	}
	for _, prefix := range []string{"involvedObject.", "regarding."} {
		set[prefix+"kind"], set[prefix+"namespace"], set[prefix+"name"] = o.Kind, o.Namespace, o.Name
		set[prefix+"uid"], set[prefix+"apiVersion"] = string(o.UID), o.APIVersion
		set[prefix+"resourceVersion"], set[prefix+"fieldPath"] = o.ResourceVersion, o.FieldPath
	}
	return set
}

func eventCells(e *corev1.Event) []any {
	orSince := func(t metav1.Time, alt string) string {
		if t.IsZero() {
			return alt
		}
		return printing.Age(t)
	}
	first := orSince(e.FirstTimestamp, printing.Since(e.EventTime.Time))
	last := orSince(e.LastTimestamp, first)
	count := e.Count
	if e.Series != nil {
		last, count = printing.Since(e.Series.LastObservedTime.Time), e.Series.Count
	} else if count == 0 {
		// An event of the newer API that happened once has no count.
		count = 1
	}
	target := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		target += "/" + e.InvolvedObject.Name
	}
	source := printing.Or(e.Source.Component, e.ReportingController)
	if host := printing.Or(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{
		last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, source,
		strings.TrimSpace(e.Message), first, int64(count), e.Name,
	}
}

// newStyle says that an event was made by the newer API, which stamps it.
func newStyle(e *corev1.Event) bool { return e.EventTime.Time != (time.Time{}) }
