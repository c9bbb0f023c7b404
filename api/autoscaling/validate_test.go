package autoscaling

import (
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What is wrong with a target of pods is said once.
func TestPodsTarget(t *testing.T) {
	for _, tc := range []struct {
		average string // "" for none
		want    field.ErrorType
	}{
		{"1", ""}, {"0", field.ErrorTypeInvalid}, {"-1", field.ErrorTypeInvalid}, {"", field.ErrorTypeRequired},
	} {
		m := autoscalingv2.PodsMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "hits"},
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType},
		}
		if tc.average != "" {
			q := resource.MustParse(tc.average)
			m.Target.AverageValue = &q
		}
		errs := validatePodsMetric(&m, field.NewPath("pods"))
		if tc.want == "" {
			if len(errs) > 0 {
				t.Errorf("%q: %v", tc.average, errs)
			}
			continue
		}
		if len(errs) != 1 || errs[0].Type != tc.want || errs[0].Field != "pods.target.averageValue" {
			t.Errorf("%q: %v, want %s once", tc.average, errs, tc.want)
		}
	}
}
