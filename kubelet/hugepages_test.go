package kubelet

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A container has the huge pages that it asks for, and none of other sizes, on
// a machine that has any; on others nobody limits what there is not.
func TestHugePageLimits(t *testing.T) {
	asks := corev1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	for _, c := range []struct {
		name    string
		machine map[string]int64
		asked   corev1.ResourceList
		want    string
	}{
		{"none on the machine", map[string]int64{"2Mi": 0, "1Gi": 0}, nil, "[]"},
		{"none asked for", map[string]int64{"2Mi": 8 << 20, "1Gi": 0}, nil, "[1GB=0 2MB=0]"},
		{"one of two sizes", map[string]int64{"2Mi": 8 << 20, "1Gi": 1 << 30}, asks, "[1GB=0 2MB=4194304]"},
		{"small ones", map[string]int64{"64Ki": 64 << 10}, asks, "[2MB=4194304 64KB=0]"},
	} {
		m := machine{HugePages: c.machine}
		got := []string{}
		for _, l := range containerHugePages(m.hugePageSizes(), c.asked) {
			got = append(got, fmt.Sprintf("%s=%d", l.PageSize, l.Limit))
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}
