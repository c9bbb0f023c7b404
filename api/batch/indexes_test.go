package batch

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What upstream 1.36 says of the same reports, of jobs with three completions.
func TestIndexes(t *testing.T) {
	const plain = "cannot set non-empty completedIndexes when non-indexed completion mode"
	for text, want := range map[string]string{
		"": "", "0": "", "0-1": "", "0,1": "", "0,2": "",
		"x":       `cannot convert string to integer for index: "x"`,
		"5":       `too large index: "5"`,
		"1,0":     "non-increasing order, previous: 1, current: 0",
		"0-2,2":   "non-increasing order, previous: 2, current: 2",
		"1-0":     "non-increasing order, previous: 1, current: 0",
		"2-2":     "non-increasing order, previous: 2, current: 2",
		"-1":      `cannot convert string to integer for index: ""`,
		"0,":      `cannot convert string to integer for index: ""`,
		"0-9":     `too large index: "9"`,
		"0--1":    `the fragment "0--1" violates the requirement that an index interval can have at most two parts separated by '-'`,
		"1,3-x":   `too large index: "3"`,
		"1-2,0":   "non-increasing order, previous: 2, current: 0",
		"0,1,2,3": `too large index: "3"`,
	} {
		for _, mode := range []batchv1.CompletionMode{batchv1.IndexedCompletion, batchv1.NonIndexedCompletion} {
			j := &batchv1.Job{Spec: batchv1.JobSpec{CompletionMode: &mode, Completions: new(int32(3))}}
			j.Status.CompletedIndexes = text
			got := validateIndexes(j, &batchv1.Job{}, field.NewPath("status")).ToAggregate()
			said := ""
			if got != nil {
				said = got.Error()
			}
			refused := mode == batchv1.NonIndexedCompletion && text != ""
			if want != "" && !strings.Contains(said, "error parsing completedIndexes: "+want) || refused != strings.Contains(said, plain) || want == "" && !refused && said != "" {
				t.Errorf("%s %q: %q, want %q", mode, text, said, want)
			}
			if errs := validateIndexes(j, j, field.NewPath("status")); len(errs) > 0 {
				t.Errorf("%q, reported before: %v", text, errs)
			}
		}
		j := &batchv1.Job{Spec: batchv1.JobSpec{Completions: new(int32(3))}, Status: batchv1.JobStatus{FailedIndexes: &text}}
		if errs := validateIndexes(j, &batchv1.Job{}, field.NewPath("status")); len(errs) != 1 || errs[0].Detail != "cannot set non-null failedIndexes when backoffLimitPerIndex is null" {
			t.Errorf("failed %q: %v", text, errs)
		}
		j.Spec.BackoffLimitPerIndex = new(int32)
		if errs := validateIndexes(j, &batchv1.Job{}, field.NewPath("status")); (len(errs) > 0) != (want != "") {
			t.Errorf("failed %q with a limit: %v", text, errs)
		}
	}
}
