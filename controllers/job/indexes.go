package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexSet is a sorted set of completion indexes.
type indexSet []int

// parseIndexes reads the form of status.completedIndexes: "1,3-5,7". What
// does not parse, or is not below limit, is left out.
func parseIndexes(text string, limit int) indexSet {
	var out indexSet
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := max(a, 0); i <= min(b, limit-1); i++ {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s indexSet) has(i int) bool {
	_, ok := slices.BinarySearch(s, i)
	return ok
}

func (s indexSet) with(i int) indexSet {
	at, ok := slices.BinarySearch(s, i)
	if ok {
		return s
	}
	return slices.Insert(slices.Clone(s), at, i)
}

// String is the form of the status: runs of three and more as a range.
func (s indexSet) String() string {
	var parts []string
	for i := 0; i < len(s); {
		j := i
		for j+1 < len(s) && s[j+1] == s[j]+1 {
			j++
		}
		switch {
		case j == i:
			parts = append(parts, strconv.Itoa(s[i]))
		case j == i+1:
			parts = append(parts, strconv.Itoa(s[i]), strconv.Itoa(s[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", s[i], s[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

// indexOf is a pod's completion index, -1 for none.
func indexOf(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil {
		return -1
	}
	return n
}
