package kubelet

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/kubelet/dra"
)

// TestSharesOfOneDevice: two shares of a device are one device in the status.
// The API refuses the whole status that names one twice.
func TestSharesOfOneDevice(t *testing.T) {
	dir := t.TempDir()
	const kept = `{"cu":{"uid":"cu","namespace":"n","name":"claim","pods":["u"],"ready":true,"devices":{"d":[
		{"pool":"p","name":"x","share":"1"},{"pool":"p","name":"x","share":"2"},{"pool":"p","name":"y"}]}}}`
	if err := os.WriteFile(filepath.Join(dir, "dra_manager_state"), []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := dra.New(dra.Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}
	pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("claim")}}
	c := &corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}}
	got := (&Kubelet{claims: m}).claimHealth(pod, c)
	if len(got) != 1 || len(got[0].Resources) != 2 || got[0].Resources[0].ResourceID != "d/p/x" || got[0].Resources[1].ResourceID != "d/p/y" {
		t.Errorf("%+v", got)
	}
}
