package csi

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestGrows(t *testing.T) {
	n := newNode(t, stages, expands)
	n.object(noAttach())
	v := persistent(pod("a"))
	v.PV.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("2Gi")
	v.Claim = &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "claim", UID: "c"}, Status: corev1.PersistentVolumeClaimStatus{
		Capacity:                  corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		AllocatedResourceStatuses: map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending},
		Conditions:                []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue}},
	}}
	n.door.put("persistentvolumeclaims", v.Claim.DeepCopy())
	claim := func() corev1.PersistentVolumeClaimStatus {
		return n.door.objects["persistentvolumeclaims/claim"].(*corev1.PersistentVolumeClaim).Status
	}
	n.driver.failing("expand", codes.OutOfRange)
	if _, err := n.Mount(t.Context(), v); err == nil {
		t.Error("a volume that cannot grow mounts")
	}
	if s := claim(); s.AllocatedResourceStatuses[corev1.ResourceStorage] != corev1.PersistentVolumeClaimNodeResizeInfeasible {
		t.Errorf("%+v", s)
	}
	n.door.put("persistentvolumeclaims", v.Claim.DeepCopy())
	n.restart(t)
	if _, err := n.Mount(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if s := claim(); s.Capacity.Storage().String() != "2Gi" || len(s.AllocatedResourceStatuses) != 0 || len(s.Conditions) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestRefused holds when a claim gives up a size on the node: a size that can
// never be at once, one that failed for certain as soon as the user wants
// another, and one whose outcome is open not at all.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		code  codes.Code
		wants string
		gives bool
	}{
		{codes.InvalidArgument, "9Gi", true},
		{codes.OutOfRange, "5Gi", true},
		{codes.PermissionDenied, "9Gi", false},
		{codes.PermissionDenied, "5Gi", true},
		{codes.Internal, "5Gi", true},
		{codes.Unavailable, "5Gi", false},
		{codes.DeadlineExceeded, "5Gi", false},
	} {
		got := refused(&corev1.PersistentVolumeClaim{
			Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(c.wants)}}},
			Status: corev1.PersistentVolumeClaimStatus{
				AllocatedResources:        corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("9Gi")},
				AllocatedResourceStatuses: map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizeInProgress},
			},
		}, status.Error(c.code, "no"))
		want := corev1.PersistentVolumeClaimNodeResizeInProgress
		if c.gives {
			want = corev1.PersistentVolumeClaimNodeResizeInfeasible
		}
		if is := got.Status.AllocatedResourceStatuses[corev1.ResourceStorage]; is != want {
			t.Errorf("%v of 9Gi while %s is wanted: %s", c.code, c.wants, is)
		}
		if len(got.Status.Conditions) != 1 || got.Status.Conditions[0].Type != corev1.PersistentVolumeClaimNodeResizeError {
			t.Errorf("%v is not told: %+v", c.code, got.Status.Conditions)
		}
	}
}
