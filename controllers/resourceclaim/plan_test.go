package resourceclaim

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "pu"}}
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("t")}}
	for _, f := range change {
		f(p)
	}
	return p
}

func noted(p *corev1.Pod) {
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: ptr.To("p-gpu-x")}}
}

func bound(p *corev1.Pod) { p.Spec.NodeName = "n" }

func owned(name string, change ...func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
	c := generate(pod(), "gpu", &resourcev1.ResourceClaimTemplate{})
	c.Name, c.GenerateName = name, ""
	for _, f := range change {
		f(c)
	}
	return c
}

func allocated(c *resourcev1.ResourceClaim) {
	c.Status.Allocation, c.Finalizers = &resourcev1.AllocationResult{}, []string{resourcev1.Finalizer}
}

func reservedFor(uids ...types.UID) func(*resourcev1.ResourceClaim) {
	return func(c *resourcev1.ResourceClaim) {
		for _, u := range uids {
			c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: string(u), UID: u})
		}
	}
}

func deleted(c *resourcev1.ResourceClaim) { c.DeletionTimestamp = &metav1.Time{} }

func TestForPod(t *testing.T) {
	template := &resourcev1.ResourceClaimTemplate{Spec: resourcev1.ResourceClaimTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}}}
	now := metav1.Now()
	for name, c := range map[string]struct {
		pod        *corev1.Pod
		claims     []*resourcev1.ResourceClaim
		noTemplate bool
		create     int
		names      string
		reserve    int
		fails      string
	}{
		"new":                  {pod: pod(), create: 1},
		"no template":          {pod: pod(), noTemplate: true, fails: `PodResourceClaim gpu: resource claim template "t"`},
		"there, not noted":     {pod: pod(), claims: []*resourcev1.ResourceClaim{owned("p-gpu-x")}, names: "p-gpu-x"},
		"there, being deleted": {pod: pod(), claims: []*resourcev1.ResourceClaim{owned("p-gpu-x", deleted)}, create: 1},
		"there and noted":      {pod: pod(noted), claims: []*resourcev1.ResourceClaim{owned("p-gpu-x")}},
		"noted but gone":       {pod: pod(noted), create: 1},
		"noted but another's":  {pod: pod(noted), claims: []*resourcev1.ResourceClaim{{ObjectMeta: metav1.ObjectMeta{Name: "p-gpu-x"}}}, fails: "pod is not owner"},
		"finished":             {pod: pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })},
		"being deleted":        {pod: pod(func(p *corev1.Pod) { p.DeletionTimestamp = &now })},
		"bound, not reserved":  {pod: pod(noted, bound), claims: []*resourcev1.ResourceClaim{owned("p-gpu-x", allocated)}, reserve: 1},
		"bound, reserved":      {pod: pod(noted, bound), claims: []*resourcev1.ResourceClaim{owned("p-gpu-x", allocated, reservedFor("pu"))}},
		"bound, not allocated": {pod: pod(noted, bound), claims: []*resourcev1.ResourceClaim{owned("p-gpu-x")}},
		"to be scheduled":      {pod: pod(noted), claims: []*resourcev1.ResourceClaim{owned("p-gpu-x", allocated)}},
		"by name, not reserved": {pod: pod(bound, func(p *corev1.Pod) {
			p.Spec.ResourceClaims[0] = corev1.PodResourceClaim{Name: "gpu", ResourceClaimName: ptr.To("s")}
		}), claims: []*resourcev1.ResourceClaim{owned("s", allocated)}, reserve: 1},
		"by name, not there": {pod: pod(bound, func(p *corev1.Pod) {
			p.Spec.ResourceClaims[0] = corev1.PodResourceClaim{Name: "gpu", ResourceClaimName: ptr.To("s")}
		})},
	} {
		got, err := ForPod(c.pod, World{
			Claim: func(n string) *resourcev1.ResourceClaim {
				for _, o := range c.claims {
					if o.Name == n {
						return o
					}
				}
				return nil
			},
			Owned: func() []*resourcev1.ResourceClaim { return c.claims },
			Template: func(string) *resourcev1.ResourceClaimTemplate {
				if c.noTemplate {
					return nil
				}
				return template
			},
		})
		if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %v", name, err)
		}
		if len(got.Create) != c.create || got.Names["gpu"] != c.names || len(got.Reserve) != c.reserve {
			t.Errorf("%s: %+v", name, got)
		}
		for _, made := range got.Create {
			if made.GenerateName != "p-gpu-" || made.Labels["a"] != "b" || made.Annotations["resource.kubernetes.io/pod-claim-name"] != "gpu" || !metav1.IsControlledBy(made, c.pod) || made.OwnerReferences[0].BlockOwnerDeletion != nil {
				t.Errorf("%s: %+v", name, made)
			}
		}
	}
}

func TestForClaim(t *testing.T) {
	for name, c := range map[string]struct {
		claim     *resourcev1.ResourceClaim
		gone      string
		ownerDone bool
		left      int // reservations after the plan
		write     bool
		allocated bool
		release   bool
		delete    bool
	}{
		"in use":                     {claim: owned("c", allocated, reservedFor("a", "b")), left: 2, allocated: true},
		"one leaves":                 {claim: owned("c", allocated, reservedFor("a", "b")), gone: "a", left: 1, write: true, allocated: true},
		"the last leaves":            {claim: owned("c", allocated, reservedFor("a")), gone: "a", write: true, release: true},
		"the last leaves, owner":     {claim: owned("c", allocated, reservedFor("a")), gone: "a", ownerDone: true, write: true, release: true, delete: true},
		"allocated by hand":          {claim: owned("c", allocated), allocated: true},
		"another allocator's":        {claim: owned("c", reservedFor("a"), func(c *resourcev1.ResourceClaim) { c.Status.Allocation = &resourcev1.AllocationResult{} }), gone: "a", write: true, allocated: true},
		"deleted in use":             {claim: owned("c", allocated, deleted, reservedFor("a")), left: 1, allocated: true},
		"deleted":                    {claim: owned("c", allocated, deleted), write: true, release: true},
		"deleted, status is written": {claim: owned("c", deleted, func(c *resourcev1.ResourceClaim) { c.Finalizers = []string{resourcev1.Finalizer} }), release: true},
		"owner done":                 {claim: owned("c"), ownerDone: true, delete: true},
		"owner done, others use it":  {claim: owned("c", allocated, reservedFor("b")), ownerDone: true, left: 1, allocated: true},
		"owner done, deleted":        {claim: owned("c", deleted), ownerDone: true},
	} {
		p := ForClaim(c.claim, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.Name == c.gone }, func() bool { return c.ownerDone })
		st := p.Status
		if (st != nil) != c.write {
			t.Errorf("%s: writes %v", name, st)
		}
		if st == nil {
			st = &c.claim.Status
		}
		if len(st.ReservedFor) != c.left || (st.Allocation != nil) != c.allocated || p.Release != c.release || p.Delete != c.delete {
			t.Errorf("%s: %+v %+v", name, p, st)
		}
	}
}

func TestNamed(t *testing.T) {
	got := named([]corev1.PodResourceClaimStatus{{Name: "a", ResourceClaimName: ptr.To("old")}, {Name: "b", ResourceClaimName: ptr.To("kept")}}, map[string]string{"a": "new"})
	if len(got) != 2 || *got[0].ResourceClaimName != "kept" || got[1].Name != "a" || *got[1].ResourceClaimName != "new" {
		t.Errorf("got %+v", got)
	}
}
