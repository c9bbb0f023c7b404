package webhooks

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/apiserver/admission"
)

// TestCounts: a webhook's yes, its no and its silence are told apart, and whose
// silence is passed over.
func TestCounts(t *testing.T) {
	var none *Counts
	none.answered(nil, admission.Create, nil, 0)
	none.matched(nil, admission.Create, true, nil, 0)
	c := NewCounts()
	ignore := admissionv1.Ignore
	strict := &hook{MutatingWebhook: &admissionv1.MutatingWebhook{Name: "strict"}, mutating: true}
	lax := &hook{MutatingWebhook: &admissionv1.MutatingWebhook{Name: "lax", FailurePolicy: &ignore}}
	down := &failure{"x", errors.New("connection refused")}
	c.answered(strict, admission.Create, nil, time.Second)
	c.answered(strict, admission.Create, apierrors.NewBadRequest("no"), time.Second)
	c.answered(strict, admission.Create, down, time.Second)
	c.answered(lax, admission.Update, down, time.Second)
	c.matched(strict, admission.Create, false, nil, 0)
	c.matched(lax, admission.Create, true, nil, 0)

	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			at := f.GetName()
			for _, l := range m.GetLabel() {
				at += "/" + l.GetValue()
			}
			got[at] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	const of = "apiserver_admission_"
	for _, at := range []string{
		"webhook_request_total/200/strict/CREATE/false/admit", "webhook_request_total/400/strict/CREATE/true/admit",
		"webhook_request_total/503/strict/CREATE/true/admit", "webhook_request_total/503/lax/UPDATE/false/validating",
		"webhook_rejection_count/no_error/strict/CREATE/400/admit", "webhook_rejection_count/calling_webhook_error/strict/CREATE/0/admit",
		"webhook_fail_open_count/lax/validating",
		"match_condition_exclusions_total/webhook/strict/CREATE/admit", "match_condition_evaluation_seconds/webhook/lax/CREATE/validating",
	} {
		if got[of+at] != 1 {
			t.Errorf("%s is %v", at, got[of+at])
		}
	}
	if n := got[of+"webhook_admission_duration_seconds/strict/CREATE/true/admit"]; n != 2 || len(got) != 13 {
		t.Errorf("%v of %v", n, got)
	}
}
