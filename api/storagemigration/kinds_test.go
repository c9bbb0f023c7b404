package storagemigration

import (
	"testing"

	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a status has said of a migration's end and of its beginning stays said.
func TestStatusIsFinal(t *testing.T) {
	with := func(rv, condition string) *migration {
		m := &migration{Status: storagemigrationv1beta1.StorageVersionMigrationStatus{ResourceVersion: rv}}
		if condition != "" {
			m.Status.Conditions = []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: "R", LastTransitionTime: metav1.Unix(1, 0)}}
		}
		return m
	}
	for _, c := range []struct {
		old, now *migration
		want     string
	}{
		{with("", ""), with("7", "Running"), ""},
		{with("7", "Running"), with("7", "Failed"), ""},
		{with("7", ""), with("8", ""), `status.resourceVersion: Invalid value: "8": field is immutable`},
		{with("7", ""), with("", ""), `status.resourceVersion: Invalid value: "": field is immutable`},
		{with("", "Succeeded"), with("", ""), `status.conditions: Invalid value: null: Success condition cannot be set to false once it is true`},
		{with("", "Failed"), with("", ""), `status.conditions: Invalid value: null: Failed condition cannot be set to false once it is true`},
	} {
		errs := validateStatus(c.now, c.old)
		if got := errs.ToAggregate(); (got == nil) != (c.want == "") || got != nil && got.Error() != c.want {
			t.Errorf("%v, want %q", got, c.want)
		}
	}
}
