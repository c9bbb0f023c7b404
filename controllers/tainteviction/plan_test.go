package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestEvictAt(t *testing.T) {
	added := time.Unix(1e9, 0)
	taint := func(key string) corev1.Taint {
		return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &metav1.Time{Time: added}}
	}
	tolerate := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}
	}
	for _, tc := range []struct {
		name   string
		taints []corev1.Taint
		tols   []corev1.Toleration
		born   time.Duration // after the taint
		want   time.Duration // after the taint; -1 never
	}{
		{"no taint", nil, nil, -time.Hour, -1},
		{"not tolerated", []corev1.Taint{taint("a")}, nil, -time.Hour, 0},
		{"for ever", []corev1.Taint{taint("a")}, []corev1.Toleration{tolerate("a", nil)}, -time.Hour, -1},
		{"for a while", []corev1.Taint{taint("a")}, []corev1.Toleration{tolerate("a", ptr.To[int64](300))}, -time.Hour, 300 * time.Second},
		{"the shorter of two tolerations", []corev1.Taint{taint("a")}, []corev1.Toleration{tolerate("a", ptr.To[int64](300)), tolerate("", ptr.To[int64](60))}, -time.Hour, time.Minute},
		{"the shorter of two taints", []corev1.Taint{taint("a"), taint("b")}, []corev1.Toleration{tolerate("a", ptr.To[int64](300)), tolerate("b", ptr.To[int64](60))}, -time.Hour, time.Minute},
		{"one of two not tolerated", []corev1.Taint{taint("a"), taint("b")}, []corev1.Toleration{tolerate("a", nil)}, -time.Hour, 0},
		{"bound later", []corev1.Taint{taint("a")}, []corev1.Toleration{tolerate("a", ptr.To[int64](60))}, time.Minute, 2 * time.Minute},
		{"other effect", []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}}, nil, -time.Hour, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(added.Add(tc.born))}}
			p.Spec.Tolerations = tc.tols
			at, ok := EvictAt(p, tc.taints, added)
			if ok != (tc.want >= 0) || ok && at.Sub(added) != tc.want {
				t.Errorf("%v %v, want %v", at.Sub(added), ok, tc.want)
			}
		})
	}
}
