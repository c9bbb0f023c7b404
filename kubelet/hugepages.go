package kubelet

import (
	"bytes"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/cgroups"
)

// hugePageSizes are those of a machine that has any huge pages, as the kernel
// writes them.
func (m *machine) hugePageSizes() []string {
	var out []string
	some := false
	for size, n := range m.HugePages {
		if s, ok := hugePageSize(corev1.ResourceName(corev1.ResourceHugePagesPrefix + size)); ok {
			out = append(out, s)
		}
		some = some || n > 0
	}
	if !some {
		return nil
	}
	slices.Sort(out)
	return out
}

// hugePageLimits says how many bytes of pages of each size are allowed: none
// but what is asked for.
func hugePageLimits(sizes []string, asked corev1.ResourceList) map[string]int64 {
	out := map[string]int64{}
	for _, s := range sizes {
		out[s] = 0
	}
	for name, q := range asked {
		if s, ok := hugePageSize(name); ok {
			out[s] = q.Value()
		}
	}
	return out
}

// containerHugePages is the same for one container, as CRI has it.
func containerHugePages(sizes []string, asked corev1.ResourceList) []*runtimeapi.HugepageLimit {
	limits := hugePageLimits(sizes, asked)
	var out []*runtimeapi.HugepageLimit
	for _, s := range slices.Sorted(maps.Keys(limits)) {
		out = append(out, &runtimeapi.HugepageLimit{PageSize: s, Limit: uint64(limits[s])})
	}
	return out
}

// limitHugePages bounds those of a pod as a whole, where there are any.
func (k *Kubelet) limitHugePages(pod *corev1.Pod, class cgroups.Class, group string) error {
	sizes := k.node.machine.hugePageSizes()
	if len(sizes) == 0 {
		return nil
	}
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	return k.cgroups.LimitHugePages(class, group, hugePageLimits(sizes, limits))
}

// hugePageSize turns "hugepages-2Mi" into the kernel's "2MB".
func hugePageSize(name corev1.ResourceName) (string, bool) {
	s, ok := bytes.CutPrefix([]byte(name), []byte(corev1.ResourceHugePagesPrefix))
	if !ok {
		return "", false
	}
	q, err := resource.ParseQuantity(string(s))
	if err != nil {
		return "", false
	}
	switch n := q.Value(); {
	case n >= 1<<30:
		return strconv.FormatInt(n>>30, 10) + "GB", true
	case n >= 1<<20:
		return strconv.FormatInt(n>>20, 10) + "MB", true
	default:
		return strconv.FormatInt(n>>10, 10) + "KB", true
	}
}
