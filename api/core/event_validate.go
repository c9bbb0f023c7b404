package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The longest texts that the newer event API takes.
const (
	maxEventField   = 128
	maxEventMessage = 1024
)

// validateEvent checks what holds for an event whichever API it came by. One
// with an event time is of the newer kind and must say who reports what.
func validateEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	ns := field.NewPath("involvedObject", "namespace")
	const mismatch = "does not match event.namespace"
	about := e.InvolvedObject.Namespace
	if !newStyle(e) {
		// "" once meant the default namespace.
		if about == "" && e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault || about != "" && about != e.Namespace {
			errs = append(errs, field.Invalid(ns, about, mismatch))
		}
	} else {
		if about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
			errs = append(errs, field.Invalid(ns, about, mismatch))
		}
		errs = append(errs, validateReport(e)...)
	}
	return append(errs, invalid(field.NewPath("namespace"), e.Namespace, validation.IsDNS1123Subdomain(e.Namespace))...)
}

func validateReport(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	text := func(v, name string) {
		path := field.NewPath(name)
		if v == "" {
			errs = append(errs, field.Required(path, ""))
		} else if len(v) > maxEventField {
			errs = append(errs, field.Invalid(path, "", "can have at most 128 characters"))
		}
	}
	controller := field.NewPath("reportingController")
	if e.ReportingController == "" {
		errs = append(errs, field.Required(controller, ""))
	}
	errs = append(errs, invalid(controller, e.ReportingController, validation.IsQualifiedName(e.ReportingController))...)
	text(e.ReportingInstance, "reportingInstance")
	text(e.Action, "action")
	text(e.Reason, "reason")
	if len(e.Message) > maxEventMessage {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", "can have at most 1024 characters"))
	}
	return errs
}

func validateEventUpdate(e, _ *corev1.Event) field.ErrorList { return validateEvent(e) }

// checkEventsV1 checks what only events.k8s.io/v1 demands: a new event tells
// nothing in the older API's fields, and of a stored one only the series
// goes on.
func checkEventsV1(o, prev runtime.Object) field.ErrorList {
	e := o.(*corev1.Event)
	if prev != nil {
		return changedEvent(e, prev.(*corev1.Event))
	}
	var errs field.ErrorList
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()}, {"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0}, {"source", e.Source.Component != "" || e.Source.Host != ""},
	} {
		if f.set {
			errs = append(errs, field.Invalid(field.NewPath(f.name), "", "needs to be unset"))
		}
	}
	return append(errs, validateSeries(e.Series)...)
}

func validateSeries(s *corev1.EventSeries) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if s.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series", "count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series", "lastObservedTime"), ""))
	}
	return errs
}

func changedEvent(e, old *corev1.Event) field.ErrorList {
	errs := validateSeries(e.Series)
	for _, f := range []struct {
		name     string
		now, old any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject}, {"reason", e.Reason, old.Reason}, {"message", e.Message, old.Message},
		{"source", e.Source, old.Source}, {"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp}, {"count", e.Count, old.Count}, {"type", e.Type, old.Type},
		{"action", e.Action, old.Action}, {"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController}, {"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, immutable(f.now, f.old, field.NewPath(f.name))...)
	}
	// Microseconds are what the wire carries; some writers hold more.
	if !e.EventTime.Truncate(time.Microsecond).Equal(old.EventTime.Truncate(time.Microsecond)) {
		errs = append(errs, immutable(e.EventTime, old.EventTime, field.NewPath("eventTime"))...)
	}
	return errs
}
