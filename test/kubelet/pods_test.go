package kubelet_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

func TestPodLife(t *testing.T) {
	w := newWorld(t)
	begin := time.Now()
	w.pod(`
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: cox.local/busybox:1
    command: [sh, -c, "echo hello; mkdir /www; echo hi > /www/index.html; exec httpd -f -p 8080 -h /www"]
    readinessProbe: {httpGet: {path: /, port: 8080}}
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
`)
	p := w.until("web", "ready", isReady)
	t.Logf("create to Ready: %v", time.Since(begin))
	if p.Status.PodIP == "" || p.Status.HostIP != "10.244.77.1" || p.Status.Phase != corev1.PodRunning {
		t.Errorf("status %+v", p.Status)
	}
	w.logSays(p, "web", 0, "hello\n")
	begin = time.Now()
	w.delete("web", 1)
	w.until("web", "gone", gone)
	t.Logf("delete to gone: %v", time.Since(begin))
	w.empty()
}

func TestNode(t *testing.T) {
	w := newWorld(t)
	n, err := client.Nodes.In(w.root, "").Get(t.Context(), nodeName)
	w.must(err)
	if n.Labels["kubernetes.io/hostname"] != nodeName || n.Status.Capacity.Memory().IsZero() || !strings.HasPrefix(n.Status.NodeInfo.ContainerRuntimeVersion, "containerd://") {
		t.Errorf("node %+v", n)
	}
	l, err := client.Leases.In(w.root, "kube-node-lease").Get(t.Context(), nodeName)
	w.must(err)
	if *l.Spec.HolderIdentity != nodeName {
		t.Errorf("lease %+v", l.Spec)
	}
}

// podCase is a pod that must come to a certain state.
type podCase struct {
	manifest string
	what     string
	want     func(*corev1.Pod) bool
	check    func(t *testing.T, w *world, p *corev1.Pod)
}

// shell makes a pod of one container that runs a script; more is further YAML
// of the container, spec of the pod's spec.
func shell(name, script, more, spec string) string {
	y := "metadata: {name: " + name + "}\nspec:\n"
	for line := range strings.Lines(spec) {
		y += "  " + line
	}
	y += "\n  containers:\n  - name: c\n    image: cox.local/busybox:1\n    command: [sh, -c, " + quote(script) + "]\n"
	for line := range strings.Lines(more) {
		y += "    " + line
	}
	return y + "\n"
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func status(p *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, l := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range l {
			if l[i].Name == name {
				return &l[i]
			}
		}
	}
	return &corev1.ContainerStatus{}
}

func hasEvent(w *world, name, want string) bool {
	return slices.ContainsFunc(w.events(name), func(e string) bool { return strings.Contains(e, want) })
}

func wantLog(want ...string) func(*testing.T, *world, *corev1.Pod) {
	return func(_ *testing.T, w *world, p *corev1.Pod) { w.logSays(p, "c", 0, want...) }
}

func message(container string, want string) func(*testing.T, *world, *corev1.Pod) {
	return func(t *testing.T, w *world, p *corev1.Pod) {
		if s := status(p, container).State.Waiting; s == nil || !strings.Contains(s.Message, want) {
			t.Errorf("waiting %+v, want %q in the message", s, want)
		}
	}
}

func cases() map[string]podCase {
	return map[string]podCase{
		"succeeds": {
			manifest: shell("succeeds", "echo done > /dev/termination-log", "", "restartPolicy: Never"),
			want:     inPhase(corev1.PodSucceeded),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				s := status(p, "c").State.Terminated
				if s == nil || s.Reason != "Completed" || s.Message != "done\n" || s.ExitCode != 0 {
					t.Errorf("terminated %+v", s)
				}
				for _, c := range p.Status.Conditions {
					if (c.Type == corev1.PodReady || c.Type == corev1.ContainersReady) && (c.Status != corev1.ConditionFalse || c.Reason != "PodCompleted") {
						t.Errorf("condition %+v", c)
					}
				}
			},
		},
		"fails": {
			manifest: shell("fails", "echo sorry; exit 3", "terminationMessagePolicy: FallbackToLogsOnError", "restartPolicy: Never"),
			want:     inPhase(corev1.PodFailed),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				if s := status(p, "c").State.Terminated; s == nil || s.Reason != "Error" || s.ExitCode != 3 || s.Message != "sorry\n" {
					t.Errorf("terminated %+v", s)
				}
			},
		},
		"on-failure": {
			manifest: shell("on-failure", "test -e /data/x || { touch /data/x; exit 1; }", "volumeMounts: [{name: data, mountPath: /data}]", "restartPolicy: OnFailure\nvolumes: [{name: data, emptyDir: {}}]"),
			want:     inPhase(corev1.PodSucceeded),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				if s := status(p, "c"); s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 1 {
					t.Errorf("status %+v", s)
				}
			},
		},
		"subpath-expr": {
			manifest: shell("subpath-expr", "echo mine > /logs/f; cat /all/subpath-expr/c/f; test ! -e /logs/subpath-expr", "env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\nvolumeMounts: [{name: v, mountPath: /logs, subPathExpr: $(POD)/c}, {name: v, mountPath: /all}]", "restartPolicy: Never\nvolumes: [{name: v, emptyDir: {}}]"),
			want:     inPhase(corev1.PodSucceeded),
			check:    wantLog("mine"),
		},
		"subpath-expr-out": {
			manifest: shell("subpath-expr-out", "true", "env: [{name: UP, value: ../..}]\nvolumeMounts: [{name: v, mountPath: /v, subPathExpr: a/$(UP)}]", "volumes: [{name: v, emptyDir: {}}]"),
			want:     waiting("c", "CreateContainerConfigError"),
		},
		"crash-loop": {
			manifest: shell("crash-loop", "exit 1", "", ""),
			want:     waiting("c", "CrashLoopBackOff"),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				// All pods begin together, and this one is looked at when its turn
				// comes: it may wait for the second time by then, or the third.
				restarts := status(p, "c").RestartCount
				if p.Status.Phase != corev1.PodRunning || restarts < 1 || restarts > 6 {
					t.Fatalf("phase %v, status %+v", p.Status.Phase, status(p, "c"))
				}
				delay := min(10*time.Second<<(restarts-1), 5*time.Minute)
				message("c", "back-off "+delay.String()+" restarting failed container=c pod=crash-loop_default("+string(p.UID)+")")(t, w, p)
			},
		},
		"start-error": {
			manifest: "metadata: {name: start-error}\nspec:\n  containers: [{name: c, image: cox.local/busybox:1, command: [/no/such/program]}]\n",
			want:     waiting("c", "RunContainerError"),
			check:    message("c", "no such file"),
		},
		"no-image": {
			manifest: "metadata: {name: no-image}\nspec:\n  containers: [{name: c, image: 127.0.0.1:1/none:1}]\n",
			want:     waiting("c", "ImagePullBackOff"),
			check:    message("c", `Back-off pulling image "127.0.0.1:1/none:1"`),
		},
		"never-pull": {
			manifest: "metadata: {name: never-pull}\nspec:\n  containers: [{name: c, image: cox.local/none:1, imagePullPolicy: Never}]\n",
			want:     waiting("c", "ErrImageNeverPull"),
			check:    message("c", `Container image "cox.local/none:1" is not present with pull policy of Never`),
		},
		"bad-image": {
			manifest: "metadata: {name: bad-image}\nspec:\n  containers: [{name: c, image: 'Not//An:Image'}]\n",
			want:     waiting("c", "InvalidImageName"),
			check:    message("c", `couldn't parse image name "Not//An:Image"`),
		},
		"no-config": {
			manifest: shell("no-config", "true", "envFrom: [{configMapRef: {name: absent}}]", ""),
			want:     waiting("c", "CreateContainerConfigError"),
			check:    message("c", `configmap "absent" not found`),
		},
		"non-root": {
			manifest: shell("non-root", "true", "securityContext: {runAsNonRoot: true}", ""),
			want:     waiting("c", "CreateContainerConfigError"),
			check:    message("c", "container has runAsNonRoot and image will run as root"),
		},
		"init": {
			manifest: `
metadata: {name: init}
spec:
  restartPolicy: Never
  volumes: [{name: d, emptyDir: {medium: Memory}}]
  initContainers:
  - {name: one, image: cox.local/busybox:1, command: [sh, -c, "echo one >> /d/log"], volumeMounts: [{name: d, mountPath: /d}]}
  - name: side
    image: cox.local/busybox:1
    restartPolicy: Always
    command: [sh, -c, "echo side >> /d/log; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [cat, /d/log]}, periodSeconds: 1}
    volumeMounts: [{name: d, mountPath: /d}]
  - {name: two, image: cox.local/busybox:1, command: [sh, -c, "echo two >> /d/log"], volumeMounts: [{name: d, mountPath: /d}]}
  containers:
  - {name: c, image: cox.local/busybox:1, command: [sh, -c, "cat /d/log"], volumeMounts: [{name: d, mountPath: /d}]}
`,
			want:  inPhase(corev1.PodSucceeded),
			check: wantLog("one\nside\ntwo\n"),
		},
		"init-fails": {
			manifest: `
metadata: {name: init-fails}
spec:
  restartPolicy: Never
  initContainers: [{name: one, image: cox.local/busybox:1, command: ["false"]}]
  containers: [{name: c, image: cox.local/busybox:1, command: ["true"]}]
`,
			want: inPhase(corev1.PodFailed),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				if s := status(p, "c").State.Waiting; s == nil || s.Reason != "PodInitializing" {
					t.Errorf("c: %+v", status(p, "c").State)
				}
			},
		},
		"liveness": {
			manifest: shell("liveness", "sleep 1000", "livenessProbe: {exec: {command: [sh, -c, exit 1]}, periodSeconds: 1, failureThreshold: 2}", "terminationGracePeriodSeconds: 1"),
			what:     "restarted",
			want:     func(p *corev1.Pod) bool { return p != nil && status(p, "c").RestartCount > 0 },
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				if !hasEvent(w, "liveness", "Normal Killing spec.containers{c}: Container c failed liveness probe, will be restarted") || !hasEvent(w, "liveness", "Warning Unhealthy spec.containers{c}: Liveness probe failed: ") {
					t.Errorf("events %q", w.events("liveness"))
				}
			},
		},
		"environment": {
			manifest: `
metadata: {name: environment, labels: {l: "1"}}
spec:
  restartPolicy: Never
  hostname: me
  subdomain: sub
  hostAliases: [{ip: 1.2.3.4, hostnames: [friend]}]
  dnsConfig: {options: [{name: ndots, value: "2"}], searches: [more.example]}
  volumes:
  - {name: cm, configMap: {name: settings}}
  - {name: sec, secret: {secretName: hidden, defaultMode: 0400}}
  - name: all
    projected:
      sources:
      - {serviceAccountToken: {path: token, expirationSeconds: 3600}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
      - {configMap: {name: settings, items: [{key: a, path: sub/a}]}}
  - {name: host, hostPath: {path: /etc/hostname, type: File}}
  containers:
  - name: c
    image: cox.local/busybox:1
    command: [sh, -c]
    args:
    - |
      env; cat /cm/a /sec/s /all/labels; echo; cat /all/sub/a; echo; test -s /all/token && echo token; cat /etc/hosts /etc/resolv.conf; ls -l /sec/..data/s; cat /one; hostname; id
      echo 'cpu $(CPU) $$(not) $(NO)'
    env:
    - {name: A, value: "x"}
    - {name: B, value: "$(A)y"}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: K, valueFrom: {configMapKeyRef: {name: settings, key: a}}}
    - {name: S, valueFrom: {secretKeyRef: {name: hidden, key: s}}}
    - {name: O, valueFrom: {secretKeyRef: {name: nothing, key: s, optional: true}}}
    envFrom: [{prefix: CM_, configMapRef: {name: settings}}]
    resources: {limits: {cpu: "1"}}
    securityContext: {runAsUser: 1000, runAsGroup: 2000}
    volumeMounts:
    - {name: cm, mountPath: /cm}
    - {name: sec, mountPath: /sec}
    - {name: all, mountPath: /all}
    - {name: cm, mountPath: /one, subPath: a}
  securityContext: {fsGroup: 3000, supplementalGroups: [4000]}
`,
			want: inPhase(corev1.PodSucceeded),
			check: wantLog("B=xy\n", "NAME=environment\n", "IP=10.244.77.", "K=value\n", "S=secret\n", "CM_a=value\n", "KUBERNETES_SERVICE_HOST=10.43.0.1\n",
				"KUBERNETES_SERVICE_PORT=443\n", "valuesecretl=\"1\"\nvalue\ntoken\n", "\tme.sub.default.svc.cluster.local\tme\n", "1.2.3.4\tfriend\n",
				"nameserver 10.43.0.10\n", "search default.svc.cluster.local svc.cluster.local cluster.local", "more.example", "ndots:2", "-r--r-----", "valueme\n",
				"uid=1000 gid=2000 groups=2000,3000,4000", "cpu 1 $(not) $(NO)\n"),
		},
		"resources": {
			manifest: shell("resources", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max; cat /proc/self/oom_score_adj; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; touch /x || echo readonly",
				"resources: {limits: {memory: 32Mi, cpu: 100m}}\nsecurityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}", "restartPolicy: Never"),
			want:  inPhase(corev1.PodSucceeded),
			check: wantLog("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "readonly"),
		},
		"oom": {
			manifest: shell("oom", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x$x$x; done", "resources: {limits: {memory: 16Mi}}", "restartPolicy: Never"),
			want:     inPhase(corev1.PodFailed),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				if s := status(p, "c").State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
					t.Errorf("terminated %+v", s)
				}
			},
		},
		"deadline": {
			manifest: shell("deadline", "sleep 1000", "", "activeDeadlineSeconds: 1\nterminationGracePeriodSeconds: 1"),
			want:     inPhase(corev1.PodFailed),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				if p.Status.Reason != "DeadlineExceeded" || p.Status.Message != "Pod was active on the node longer than the specified deadline" {
					t.Errorf("status %+v", p.Status)
				}
			},
		},
		"too-big": {
			manifest: shell("too-big", "true", `resources: {requests: {cpu: "1000"}}`, ""),
			want:     inPhase(corev1.PodFailed),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				if p.Status.Reason != "OutOfcpu" || !strings.HasPrefix(p.Status.Message, "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: ") {
					t.Errorf("status %+v", p.Status)
				}
			},
		},
		"pvc": {
			manifest: shell("pvc", "true", "", "volumes: [{name: v, persistentVolumeClaim: {claimName: x}}]"),
			what:     "refused",
			want:     waiting("c", "ContainerCreating"),
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				for range 100 {
					if hasEvent(w, "pvc", `Warning FailedMount : MountVolume.SetUp failed for volume "v" : error processing PVC default/x: failed to fetch PVC from API server: persistentvolumeclaims "x" not found`) {
						return
					}
					time.Sleep(50 * time.Millisecond)
				}
				t.Errorf("events %q", w.events("pvc"))
			},
		},
		"hooks": {
			manifest: shell("hooks", "trap 'echo term; exit 0' TERM; while :; do sleep 0.1; done", `lifecycle:
  postStart: {exec: {command: [sh, -c, "echo post > /proc/1/fd/1"]}}
  preStop: {exec: {command: [sh, -c, "echo pre > /proc/1/fd/1"]}}
`, ""),
			want: isReady,
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				log := filepath.Join(w.dir, "logs", "default_hooks_"+string(p.UID), "c", "0.log")
				f, err := os.Open(log)
				w.must(err)
				defer f.Close()
				w.delete("hooks", 20)
				w.until("hooks", "gone", gone)
				b := make([]byte, 4096)
				n, _ := f.Read(b)
				got := string(b[:n])
				if i, j, k := strings.Index(got, "F post"), strings.Index(got, "F pre"), strings.Index(got, "F term"); i < 0 || j < i || k < j {
					t.Errorf("log %q", got)
				}
			},
		},
		"post-start-fails": {
			manifest: shell("post-start-fails", "sleep 1000", `lifecycle: {postStart: {exec: {command: ["false"]}}}`, "terminationGracePeriodSeconds: 1"),
			what:     "restarted",
			want:     func(p *corev1.Pod) bool { return p != nil && status(p, "c").RestartCount > 0 },
			check: func(t *testing.T, w *world, p *corev1.Pod) {
				if !hasEvent(w, "post-start-fails", "Warning FailedPostStartHook spec.containers{c}") {
					t.Errorf("events %q", w.events("post-start-fails"))
				}
			},
		},
	}
}

func TestPods(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	_, err := client.ConfigMaps.In(w.root, "default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "default"}, Data: map[string]string{"a": "value"}})
	w.must(err)
	_, err = client.Secrets.In(w.root, "default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hidden", Namespace: "default"}, Data: map[string][]byte{"s": []byte("secret")}})
	w.must(err)
	all := cases()
	for _, c := range all {
		w.pod(c.manifest)
	}
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			sub := *w
			sub.t = t
			p := sub.until(name, c.what, c.want)
			if c.check != nil {
				c.check(t, &sub, p)
			}
		})
	}
	// All can be deleted, in whatever state they are.
	pods, _, err := client.Pods.In(w.root, "default").List(ctx, client.Options{})
	w.must(err)
	for _, p := range pods {
		if p.DeletionTimestamp == nil {
			w.delete(p.Name, 1)
		}
	}
	for _, p := range pods {
		w.until(p.Name, "gone", gone)
	}
	w.empty()
}
