package ephemeralvolume

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMissing(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "plain"}, {Name: "data", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
				Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
			}}}}}
		if change != nil {
			change(p)
		}
		return p
	}
	own := claimFor(pod(nil), &pod(nil).Spec.Volumes[1])
	stranger := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-data"}}
	now := metav1.Now()
	for name, c := range map[string]struct {
		change   func(*corev1.Pod)
		have     *corev1.PersistentVolumeClaim
		make     int
		conflict bool
	}{
		"new":      {make: 1},
		"there":    {have: own},
		"others":   {have: stranger, conflict: true},
		"deleted":  {change: func(p *corev1.Pod) { p.DeletionTimestamp = &now }},
		"finished": {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }},
	} {
		got, err := missing(pod(c.change), func(name string) *corev1.PersistentVolumeClaim {
			if name != "p-data" {
				t.Errorf("asked for %q", name)
			}
			return c.have
		})
		if len(got) != c.make || (err != nil) != c.conflict {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if own.Labels["a"] != "b" || !metav1.IsControlledBy(own, pod(nil)) || own.Spec.AccessModes[0] != corev1.ReadWriteOnce {
		t.Errorf("got %+v", own)
	}
}
