package kubelet_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// TestOrderOfSidecars: sidecars start in their order before the containers and
// end in the reverse order after them (KEP-753).
func TestOrderOfSidecars(t *testing.T) {
	w := newWorld(t)
	out := t.TempDir()
	w.must(os.Chmod(out, 0o777))
	// The main container takes its time, so that nobody ends before it by chance.
	script := func(name, ends string) string {
		return quote("echo +" + name + " >> /out/order; trap '" + ends + "echo -" + name + " >> /out/order; exit 0' TERM; while :; do sleep 0.1; done")
	}
	container := func(name, ends, more string) string {
		return "  - name: " + name + "\n    image: cox.local/busybox:1\n    command: [sh, -c, " + script(name, ends) + "]\n    volumeMounts: [{name: out, mountPath: /out}]\n" + more
	}
	// Who comes next waits until the one before has written.
	const sidecar = "    restartPolicy: Always\n    startupProbe: {exec: {command: [sh, -c, 'while read x; do [ \"$x\" != +% ] || exit 0; done < /out/order; exit 1']}, periodSeconds: 1}\n"
	w.pod("metadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 60\n  volumes: [{name: out, hostPath: {path: " + out + "}}]\n  initContainers:\n" +
		container("one", "", strings.ReplaceAll(sidecar, "%", "one")) + container("two", "", strings.ReplaceAll(sidecar, "%", "two")) +
		"  containers:\n" + container("main", "sleep 1; ", ""))
	w.until("p", "ready", isReady)
	order := func() string {
		b, err := os.ReadFile(filepath.Join(out, "order"))
		if err != nil {
			return ""
		}
		return strings.Join(strings.Fields(string(b)), " ")
	}
	w.eventually("all have started", func() bool { return strings.Contains(order(), "+main") })
	w.delete("p", 60)
	w.until("p", "gone", gone)
	if got := order(); got != "+one +two +main -main -two -one" {
		t.Errorf("they started and ended in the order %s", got)
	}
	w.noLeaks()
}

// TestEphemeralClaims: a pod gets the volume that a claim was made of for it,
// and not that of a claim which only has the right name.
func TestEphemeralClaims(t *testing.T) {
	w := newWorld(t)
	theirs, disk := t.TempDir(), t.TempDir()
	w.claim("p-data", theirs)
	w.bind("p-data")
	p := w.pod(shell("p", "echo mine > /data/new && echo written", "volumeMounts: [{name: data, mountPath: /data}]", `
restartPolicy: Never
volumes: [{name: data, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]
`))
	w.untilEvent("p", "PVC default/p-data was not created for pod default/p (pod is not owner)")
	claims, volumes := client.PersistentVolumeClaims.In(w.root, "default"), client.PersistentVolumes.In(w.root, "")
	w.must(claims.Delete(t.Context(), "p-data", client.Options{}))
	w.must(volumes.Delete(t.Context(), "p-data", client.Options{}))
	w.claim("p-data", disk)
	_, err := claims.Mutate(t.Context(), "p-data", "", func(c *corev1.PersistentVolumeClaim) (bool, error) {
		yes := true
		c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: &yes}}
		return true, nil
	})
	w.must(err)
	w.bind("p-data")
	p = w.until("p", "done", inPhase(corev1.PodSucceeded))
	wantLog("written")(t, w, p)
	if b, err := os.ReadFile(filepath.Join(disk, "new")); err != nil || string(b) != "mine\n" {
		t.Errorf("in the volume: %q, %v", b, err)
	}
	if left, err := os.ReadDir(theirs); err != nil || len(left) != 0 {
		t.Errorf("in the volume of another claim: %v, %v", left, err)
	}
	w.delete("p", 0)
	w.until("p", "gone", gone)
	w.empty()
}
