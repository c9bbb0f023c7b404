package kubelet_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// claim makes a claim bound to a local volume.
func (w *world) claim(name, path string) {
	w.t.Helper()
	ctx, size := w.t.Context(), corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes, class := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, ""
	pvc, err := client.PersistentVolumeClaims.In(w.root, "default").Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: &class, VolumeName: name, Resources: corev1.VolumeResourceRequirements{Requests: size}},
	})
	w.must(err)
	_, err = client.PersistentVolumes.In(w.root, "").Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: name, UID: pvc.UID},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{nodeName}}},
			}}}},
		},
	})
	w.must(err)
}

func (w *world) bind(name string) {
	w.t.Helper()
	pvcs := client.PersistentVolumeClaims.In(w.root, "default")
	pvc, err := pvcs.Get(w.t.Context(), name)
	w.must(err)
	pvc = pvc.DeepCopy()
	pvc.Status.Phase = corev1.ClaimBound
	_, err = pvcs.UpdateStatus(w.t.Context(), pvc)
	w.must(err)
}

func TestClaims(t *testing.T) {
	w := newWorld(t)
	disk := t.TempDir()
	w.must(os.WriteFile(filepath.Join(disk, "was"), []byte("here"), 0o600))
	w.claim("data", disk)
	w.pod(shell("p", "id -G; cat /data/was; echo more > /data/sub/new && echo written; echo x > /ro/y || echo read only", `
securityContext: {runAsUser: 1000}
volumeMounts:
- {name: d, mountPath: /data}
- {name: d, mountPath: /data/sub, subPath: sub}
- {name: r, mountPath: /ro}
`, `
restartPolicy: Never
securityContext: {fsGroup: 4321}
volumes:
- {name: d, persistentVolumeClaim: {claimName: data}}
- {name: r, persistentVolumeClaim: {claimName: data, readOnly: true}}
`))
	w.untilEvent("p", "error processing PVC default/data: PVC is not bound")
	w.bind("data")
	p := w.until("p", "done", inPhase(corev1.PodSucceeded))
	wantLog("4321", "here", "written", "read only")(t, w, p)
	if b, err := os.ReadFile(filepath.Join(disk, "sub", "new")); err != nil || string(b) != "more\n" {
		t.Errorf("in the volume: %q, %v", b, err)
	}
	w.delete("p", 0)
	w.until("p", "gone", gone)
	w.empty()
	if _, err := os.Stat(filepath.Join(disk, "was")); err != nil {
		t.Errorf("the volume's content went with the pod: %v", err)
	}
}

func TestImageVolume(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("p", "ls /image/bin/busybox /sub/passwd; touch /image/x || echo read only", `
volumeMounts:
- {name: i, mountPath: /image}
- {name: i, mountPath: /sub, subPath: etc}
`, "restartPolicy: Never\nvolumes: [{name: i, image: {reference: 'cox.local/busybox:1', pullPolicy: IfNotPresent}}]"))
	p := w.until("p", "done", inPhase(corev1.PodSucceeded))
	wantLog("/image/bin/busybox", "/sub/passwd", "read only")(t, w, p)
	w.pod(shell("none", "true", "volumeMounts: [{name: i, mountPath: /image}]", "volumes: [{name: i, image: {reference: 'cox.local/none:1', pullPolicy: Never}}]"))
	w.until("none", "waiting for its image", waiting("c", "ErrImageNeverPull"))
	// A back-off names the image that it is about: the volume's.
	w.pod(shell("away", "true", "volumeMounts: [{name: i, mountPath: /image}]", "volumes: [{name: i, image: {reference: '127.0.0.1:1/away:1', pullPolicy: Always}}]"))
	p = w.until("away", "waiting to pull again", waiting("c", "ImagePullBackOff"))
	if m, want := p.Status.ContainerStatuses[0].State.Waiting.Message, `Back-off pulling image "127.0.0.1:1/away:1": ErrImagePull: `; !strings.HasPrefix(m, want) {
		t.Errorf("it waits because of %q, want %s...", m, want)
	}
	w.untilEvent("away", `Back-off pulling image "127.0.0.1:1/away:1"`)
}

// TestPropagation: what one container mounts the other sees, where both ask
// for it.
func TestPropagation(t *testing.T) {
	w := newWorld(t)
	w.pod(`
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: c
    image: cox.local/busybox:1
    command: [sh, -c, 'mkdir /v/m && /bin/busybox mount -t tmpfs none /v/m && echo seen > /v/m/file && sleep 1000']
    securityContext: {privileged: true}
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]
  - name: slave
    image: cox.local/busybox:1
    command: [sh, -c, 'until cat /v/m/file > /tmp/seen; do sleep 0.1; done; sleep 1000']
    readinessProbe: {exec: {command: [/bin/busybox, grep, seen, /tmp/seen]}, periodSeconds: 1}
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]
  - name: private
    image: cox.local/busybox:1
    command: [sleep, '1000']
    volumeMounts: [{name: v, mountPath: /v}]
`)
	w.until("p", "ready", isReady)
	w.delete("p", 1)
	w.until("p", "gone", gone)
	w.empty()
}

// TestUserNamespace: root in the pod is nobody on the host, and yet owns its
// volumes.
func TestUserNamespace(t *testing.T) {
	w := newWorld(t)
	script := "cat /proc/self/uid_map; id -u; echo x > /v/file && ls -ln /v/file; cat /etc/hosts > /dev/null && echo hosts; echo bye > /dev/termination-log"
	w.pod(shell("p", script, "volumeMounts: [{name: v, mountPath: /v}]", "hostUsers: false\nrestartPolicy: Never\nvolumes: [{name: v, emptyDir: {}}]"))
	if n, err := client.Nodes.In(w.root, "").Get(t.Context(), nodeName); err != nil || !ownUsers(n) {
		// An older program below the runtime cannot; then it is said.
		w.untilEvent("p", `the runtime handler "" does not support user namespaces`)
		t.Skip("the host's runc or crun cannot map the owners in mounts")
	}
	p := w.until("p", "over", func(p *corev1.Pod) bool {
		return p != nil && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed) || hasEvent(w, "p", "Failed")
	})
	if p.Status.Phase != corev1.PodSucceeded {
		t.Fatalf("phase %s: %q", p.Status.Phase, w.events("p"))
	}
	log := w.logSays(p, "c", 0, " 65536")
	m := strings.Fields(log)
	if len(m) < 3 || m[0] != "0" || m[1] == "0" || m[2] != "65536" {
		t.Errorf("uid_map in %q", log)
	}
	wantLog("hosts", " 0 ")(t, w, p)
	if st := status(p, "c").State.Terminated; st == nil || st.Message != "bye\n" {
		t.Errorf("%+v", st)
	}
}

func TestRestartRules(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("p", "test -e /v/once && exit 7; touch /v/once; exit 42", `
restartPolicy: Never
restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]
volumeMounts: [{name: v, mountPath: /v}]
`, "restartPolicy: Never\nvolumes: [{name: v, emptyDir: {}}]"))
	p := w.until("p", "failed", inPhase(corev1.PodFailed))
	if st := status(p, "c"); st.RestartCount != 1 || st.State.Terminated.ExitCode != 7 {
		t.Errorf("%+v", st)
	}
}

// TestSecurity: what the kernel is told of groups and of /proc.
func TestSecurity(t *testing.T) {
	w := newWorld(t)
	w.pod(shell("strict", "id -G", "", "restartPolicy: Never\nsecurityContext: {runAsUser: 1000, runAsGroup: 2000, supplementalGroups: [3000], supplementalGroupsPolicy: Strict}"))
	p := w.until("strict", "done", inPhase(corev1.PodSucceeded))
	wantLog("2000 3000")(t, w, p)
	dir := filepath.Join(w.dir, "kubelet", "seccomp")
	w.must(os.MkdirAll(dir, 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "deny.json"), []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`), 0o644))
	w.pod(shell("seccomp", "mkdir /tmp/x || echo denied", "securityContext: {seccompProfile: {type: Localhost, localhostProfile: deny.json}}", "restartPolicy: Never"))
	wantLog("denied")(t, w, w.until("seccomp", "done", inPhase(corev1.PodSucceeded)))
}

// ownUsers says that the node's runtime can give pods users of their own.
func ownUsers(n *corev1.Node) bool {
	for _, h := range n.Status.RuntimeHandlers {
		if h.Name == "" && h.Features != nil && h.Features.UserNamespaces != nil {
			return *h.Features.UserNamespaces
		}
	}
	return false
}

// TestRecursiveReadOnly has a container that can read, and another that can
// write, what is mounted below a folder of the host that both have read only
// (KEP-3857).
func TestRecursiveReadOnly(t *testing.T) {
	w := newWorld(t)
	host := t.TempDir()
	w.must(os.Mkdir(filepath.Join(host, "below"), 0o755))
	w.must(unix.Mount("tmpfs", filepath.Join(host, "below"), "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(host, "below"), unix.MNT_DETACH) })
	for mode, writes := range map[string]string{"Enabled": "refused", "Disabled": "written"} {
		name := "rro-" + strings.ToLower(mode)
		w.pod(shell(name, "touch /host/top 2>/dev/null && echo top written; touch /host/below/"+name+" 2>/dev/null && echo below written || echo below refused",
			"volumeMounts: [{name: h, mountPath: /host, readOnly: true, recursiveReadOnly: "+mode+"}]", "restartPolicy: Never\nvolumes: [{name: h, hostPath: {path: "+host+"}}]"))
		p := w.until(name, "over", inPhase(corev1.PodSucceeded))
		if log := w.logSays(p, "c", 0, "below"); log != "below "+writes+"\n" {
			t.Errorf("%s: %q", mode, log)
		}
		for _, m := range status(p, "c").VolumeMounts {
			if m.MountPath == "/host" && (m.RecursiveReadOnly == nil || string(*m.RecursiveReadOnly) != mode) {
				t.Errorf("%s: the status says %v", mode, m.RecursiveReadOnly)
			}
		}
	}
}
