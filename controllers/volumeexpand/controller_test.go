package volumeexpand

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func sized(size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	return c
}

// Only a bound claim that asks for more than before, and than its volume has,
// is told of.
func TestGrowing(t *testing.T) {
	volume := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}}}
	for _, c := range []struct {
		old, now     *corev1.PersistentVolumeClaim
		asked, waits bool
	}{
		{sized("1Gi", corev1.ClaimBound), sized("3Gi", corev1.ClaimBound), true, true},
		{sized("1Gi", corev1.ClaimBound), sized("2048Mi", corev1.ClaimBound), true, false},
		{sized("3Gi", corev1.ClaimBound), sized("3072Mi", corev1.ClaimBound), false, true},
		{sized("3Gi", corev1.ClaimBound), sized("1Gi", corev1.ClaimBound), false, false},
		{sized("1Gi", corev1.ClaimPending), sized("3Gi", corev1.ClaimPending), false, true},
	} {
		if got := asked(c.old, c.now); got != c.asked {
			t.Errorf("%v to %v, %s: asked %v", c.old.Spec.Resources.Requests, c.now.Spec.Resources.Requests, c.now.Status.Phase, got)
		}
		if got := waits(c.now, volume); got != c.waits {
			t.Errorf("%v: waits %v", c.now.Spec.Resources.Requests, got)
		}
	}
}
