package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// BenchmarkPlaceReplicas places a Deployment's pod, which the default
// constraints spread, among so many pods of other Deployments, and takes it
// off again.
func BenchmarkPlaceReplicas(b *testing.B) {
	for _, pods := range []int{100, 2000, 20000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			s, classes, profile := NewSnapshot(), newClasses(8), DefaultProfile()
			for i := range 200 {
				s.SetNode(node(fmt.Sprintf("n%d", i), nodeLabel(corev1.LabelTopologyZone, fmt.Sprint(i%10)), func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("100000") }))
			}
			replica := func(i int) *Pod {
				obj := pod("p", requests("1m", "1Mi"), labelled("app", fmt.Sprint(i%20), "pod-template-hash", fmt.Sprint("h", i%20)))
				obj.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: ptr.To(true)}}
				obj.UID = types.UID(fmt.Sprint(i))
				return NewPod(obj)
			}
			for i := range pods {
				s.SetPod(replica(i), fmt.Sprintf("n%d", i%200))
			}
			classes.of(replica(0), profile, s).place(replica(0), profile, s, false) // counted once
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p := replica(pods + i)
				n, _ := classes.of(p, profile, s).place(p, profile, s, false)
				if n == nil {
					b.Fatal("full")
				}
				s.SetPod(p, n.Name)
				s.RemovePod(p.UID)
			}
		})
	}
}
