package scheduler

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// taintScore prefers nodes with few PreferNoSchedule taints that the pod does
// not tolerate.
type taintScore struct{}

func (taintScore) Name() string { return "TaintToleration" }
func (taintScore) For(p *Pod, _ *Snapshot) Rate {
	var tolerations []corev1.Toleration
	for _, t := range p.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			tolerations = append(tolerations, t)
		}
	}
	return func(n *Node) int64 {
		var bad int64
		for i := range n.Spec.Taints {
			if t := &n.Spec.Taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(tolerations, t) {
				bad++
			}
		}
		return bad
	}
}

func (taintScore) Normalize(raw, highest int64) int64 {
	if highest == 0 {
		return MaxScore
	}
	return MaxScore - MaxScore*raw/highest
}

// affinityScore sums the weights of the preferred node affinity terms that
// match.
type affinityScore struct{}

func (affinityScore) Name() string { return "NodeAffinity" }
func (affinityScore) For(p *Pod, _ *Snapshot) Rate {
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil
	}
	return func(n *Node) int64 { return terms.Score(n.Node) }
}

func (affinityScore) Normalize(raw, highest int64) int64 {
	if highest == 0 {
		return 0
	}
	return MaxScore * raw / highest
}

// leastAllocated prefers nodes with the most CPU and memory left.
type leastAllocated struct{}

func (leastAllocated) Name() string { return "NodeResourcesFit" }
func (leastAllocated) For(p *Pod, _ *Snapshot) Rate {
	cpu, memory := p.scoredCPU, p.scoredMemory
	return func(n *Node) int64 {
		var sum, weights int64
		free := func(used, have int64) {
			if have == 0 {
				return
			}
			weights++
			if used <= have {
				sum += (have - used) * MaxScore / have
			}
		}
		free(n.scoredCPU+cpu, n.allocatable.MilliCPU)
		free(n.scoredMem+memory, n.allocatable.Memory)
		if weights == 0 {
			return 0
		}
		return sum / weights
	}
}

func (leastAllocated) Normalize(raw, _ int64) int64 { return raw }

// balancedAllocation prefers nodes whose CPU and memory would be used to a
// similar degree.
type balancedAllocation struct{}

func (balancedAllocation) Name() string { return "NodeResourcesBalancedAllocation" }
func (balancedAllocation) For(p *Pod, _ *Snapshot) Rate {
	cpu, memory := p.request.MilliCPU, p.request.Memory
	if cpu == 0 && memory == 0 {
		return nil // a pod without requests unbalances nothing
	}
	return func(n *Node) int64 {
		if n.allocatable.MilliCPU == 0 || n.allocatable.Memory == 0 {
			return MaxScore
		}
		a := math.Min(1, float64(n.used.MilliCPU+cpu)/float64(n.allocatable.MilliCPU))
		b := math.Min(1, float64(n.used.Memory+memory)/float64(n.allocatable.Memory))
		deviation := math.Abs(a-b) / 2
		return int64((1 - deviation) * MaxScore)
	}
}

func (balancedAllocation) Normalize(raw, _ int64) int64 { return raw }

// imageLocality prefers nodes that have the pod's large images already,
// weighing each by how widely it is spread so that pods do not pile up where
// the image happened to be first.
type imageLocality struct{}

const (
	imageMin = 23 << 20
	imageMax = 1000 << 20 // per container
)

func (imageLocality) Name() string { return "ImageLocality" }
func (imageLocality) For(p *Pod, s *Snapshot) Rate {
	var images []string
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			images = append(images, normalImage(list[i].Image))
		}
	}
	return func(n *Node) int64 {
		if len(n.images) == 0 {
			return 0
		}
		var sum int64
		for _, img := range images {
			if size, ok := n.images[img]; ok {
				sum += int64(float64(size) * float64(s.imageNodes[img]) / float64(len(s.nodes)))
			}
		}
		limit := int64(imageMax * len(images))
		sum = min(max(sum, imageMin), limit)
		return MaxScore * (sum - imageMin) / (limit - imageMin)
	}
}

func (imageLocality) Normalize(raw, _ int64) int64 { return raw }

// normalImage adds the tag that a bare image name means.
func normalImage(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}
