package batch

import (
	"fmt"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateIndexes checks which indexes of a job are reported to have succeeded
// and failed. What was reported before stays as it is (see the types of
// batch/v1 JobStatus and KEP-3850).
func validateIndexes(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	s, indexed := &j.Status, j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
	if text := s.CompletedIndexes; text != old.Status.CompletedIndexes {
		at := path.Child("completedIndexes")
		if j.Spec.Completions != nil {
			if err := parseIndexes(text, int(*j.Spec.Completions)); err != nil {
				errs = append(errs, field.Invalid(at, text, fmt.Sprintf("error parsing completedIndexes: %v", err)))
			}
		}
		if text != "" && !indexed {
			errs = append(errs, field.Invalid(at, text, "cannot set non-empty completedIndexes when non-indexed completion mode"))
		}
	}
	if was := old.Status.FailedIndexes; s.FailedIndexes != nil && (was == nil || *was != *s.FailedIndexes) {
		text, at := *s.FailedIndexes, path.Child("failedIndexes")
		if j.Spec.BackoffLimitPerIndex == nil {
			return append(errs, field.Invalid(at, text, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
		}
		if j.Spec.Completions != nil {
			if err := parseIndexes(text, int(*j.Spec.Completions)); err != nil {
				errs = append(errs, field.Invalid(at, text, fmt.Sprintf("error parsing failedIndexes: %v", err)))
			}
		}
	}
	return errs
}

// parseIndexes reads a list such as "0,2-4" of increasing indexes below n.
func parseIndexes(text string, n int) error {
	last := -1
	number := func(s string) error {
		i, err := strconv.Atoi(s)
		switch {
		case err != nil:
			return fmt.Errorf("cannot convert string to integer for index: %q", s)
		case i >= n:
			return fmt.Errorf("too large index: %q", s)
		case last >= i:
			return fmt.Errorf("non-increasing order, previous: %d, current: %d", last, i)
		}
		last = i
		return nil
	}
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		ends := strings.Split(part, "-")
		if len(ends) > 2 {
			return fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
		}
		for _, end := range ends {
			if err := number(end); err != nil {
				return err
			}
		}
	}
	return nil
}
