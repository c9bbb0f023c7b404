package swap

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coxswain/cox/cni"
	"github.com/coxswain/cox/internal/mountinfo"
	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/runtimetest"
	"github.com/coxswain/cox/test/programs"
)

// workload is what a node shows what it can do with: configuration, a token,
// probes, an init container, a sidecar.
const workload = `
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: seaworthy}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: w}
spec:
  replicas: 2
  selector: {matchLabels: {app: w}}
  template:
    metadata: {labels: {app: w}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - {name: first, image: "cox.local/busybox:1", command: [sh, -c, "echo from-init > /shared/init"], volumeMounts: [{name: shared, mountPath: /shared}]}
      - {name: beside, image: "cox.local/busybox:1", command: [sleep, "3600"], restartPolicy: Always}
      containers:
      - name: c
        image: cox.local/busybox:1
        command: [sh, -c, "cat /words/word; cat /shared/init; echo; echo $NODE; exec sleep 3600"]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        readinessProbe: {exec: {command: [cat, /var/run/secrets/kubernetes.io/serviceaccount/token]}, periodSeconds: 1}
        resources: {requests: {cpu: 10m, memory: 8Mi}, limits: {memory: 64Mi}}
        volumeMounts: [{name: words, mountPath: /words}, {name: shared, mountPath: /shared}]
      volumes: [{name: words, configMap: {name: words}}, {name: shared, emptyDir: {}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: j}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "cox.local/busybox:1", command: [sh, -c, "exit 0"]}]
`

// carries has the node carry a workload out.
func (c *cluster) carries(t *testing.T, node string) {
	t.Helper()
	eventually(t, "the node is ready", func() (bool, string) {
		out, err := c.try("get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "True", out
	})
	eventually(t, "default service account", func() (bool, string) {
		out, err := c.try("get", "serviceaccount", "default")
		return err == nil, out
	})
	c.apply(t, workload)
	c.kubectl(t, "rollout", "status", "deployment/w", "--timeout=3m")
	c.kubectl(t, "wait", "--for=condition=Complete", "job/j", "--timeout=3m")
	if log := c.kubectl(t, "logs", "deployment/w", "-c", "c"); strings.Join(strings.Fields(log), " ") != "seaworthy from-init "+node && strings.Join(strings.Fields(log), " ") != "seaworthyfrom-init "+node {
		t.Errorf("log: %q", log)
	}
	if out := c.kubectl(t, "exec", "deployment/w", "-c", "c", "--", "cat", "/words/word"); out != "seaworthy" {
		t.Errorf("exec: %q", out)
	}
	c.kubectl(t, "set", "env", "deployment/w", "A=b")
	c.kubectl(t, "rollout", "status", "deployment/w", "--timeout=3m")
	c.kubectl(t, "delete", "deployment/w", "job/j", "--cascade=foreground", "--wait=false")
	eventually(t, "all goes", func() (bool, string) {
		out, err := c.try("get", "deployments,replicasets,jobs,pods", "-o", "name")
		if err == nil && strings.TrimSpace(out) != "" {
			out, _ = c.try("get", "deployments,replicasets,jobs,pods", "-o", `jsonpath={range .items[*]}{.kind} {.metadata}{.status.phase}{"\n"}{end}`)
		}
		return err == nil && strings.TrimSpace(out) == "", out
	})
}

// containers starts our runtime and pod network with a range of a test's
// own, for kubelets that bring neither. What is below the cgroup goes with the
// test.
func containers(t *testing.T, pods string) (rt *runtime.Runtime, cgroup string) {
	t.Helper()
	cfg := runtimetest.Config(t)
	cfg.CNIConfDir = filepath.Join(t.TempDir(), "net.d")
	conf := cni.Conf{
		Name: strings.TrimPrefix(cfg.CgroupRoot, "/"), StateDir: filepath.Join(t.TempDir(), "cni"),
		PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.MustParsePrefix(pods).Addr(), 24)},
	}
	t.Cleanup(func() {
		if err := cni.Purge(conf); err != nil {
			t.Error(err)
		}
	})
	if err := cni.Setup(conf); err != nil {
		t.Fatal(err)
	}
	if err := cni.WriteConfig(cfg.CNIConfDir, conf); err != nil {
		t.Fatal(err)
	}
	r, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	runtimetest.Import(t, r)
	return r, cfg.CgroupRoot
}

// kubeletFile writes a kubelet's configuration, which upstream's and ours
// read alike.
func (c *cluster) kubeletFile(t *testing.T, dir, endpoint, port, more string) string {
	t.Helper()
	path := filepath.Join(dir, "kubelet.yaml")
	text := fmt.Sprintf(`
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %s}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
clusterDomain: cluster.local
containerRuntimeEndpoint: %s
failSwapOn: false
healthzPort: 0
podLogsDir: %s
port: %s
imageMinimumGCAge: 2h
evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi}
%s
`, c.caFile, endpoint, filepath.Join(dir, "logs"), port, more)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// kubeletsAPI lets the API server use the kubelets' API and writes who may
// join, as kubeadm's clusters have it.
const kubeletsAPI = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-kubelet-api}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:kubelet-api-admin"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: kube-apiserver-kubelet-client}]
`

// approvesServing waits for a kubelet to ask for its serving certificate and
// has that signed.
func (c *cluster) approvesServing(t *testing.T) {
	t.Helper()
	asked := func(field string) (string, error) {
		return c.try("get", "csr", "-o", `jsonpath={range .items[?(@.spec.signerName=="kubernetes.io/kubelet-serving")]}{`+field+`}{end}`)
	}
	eventually(t, "the kubelet asks for its serving certificate", func() (bool, string) {
		name, err := asked(".metadata.name")
		if err == nil && name != "" {
			c.kubectl(t, "certificate", "approve", name)
		}
		return err == nil && name != "", name
	})
	eventually(t, "the serving certificate is signed", func() (bool, string) {
		out, err := asked(".status.certificate")
		return err == nil && out != "", out
	})
}

// TestUpstreamKubelet has upstream's kubelet join our API server with a token
// of ours, and run pods that our controllers and scheduler made.
func TestUpstreamKubelet(t *testing.T) {
	kubelet := programs.NeedUpstream(t, "kubelet")
	c := coxServer(t)
	r, _ := containers(t, c.pods)
	dir := t.TempDir()
	joins, err := exec.Command(c.cox, "token", "create", "--config=/dev/null", "--write-kubeconfig="+c.kubeconfig).Output()
	if err != nil {
		t.Fatalf("cox token create: %v", err)
	}
	_, token, _ := strings.Cut(strings.TrimSpace(string(joins)), ".") // before it is the authority's hash
	bootstrap := filepath.Join(dir, "bootstrap.kubeconfig")
	for _, args := range [][]string{
		{"set-cluster", "c", "--server=" + c.url, "--certificate-authority=" + c.caFile},
		{"set-credentials", "u", "--token=" + token},
		{"set-context", "c", "--cluster=c", "--user=u"}, {"use-context", "c"},
	} {
		if out, err := exec.Command(c.cox, append([]string{"kubectl", "config", "--kubeconfig=" + bootstrap}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	file := c.kubeletFile(t, dir, r.Endpoint(), programs.Port(t), `
failCgroupV1: false
serverTLSBootstrap: true
rotateCertificates: true
cgroupsPerQOS: false
enforceNodeAllocatable: []`)
	programs.Start(t, kubelet, "--bootstrap-kubeconfig="+bootstrap, "--kubeconfig="+filepath.Join(dir, "kubelet.kubeconfig"), "--config="+file,
		"--hostname-override=theirs", "--root-dir="+filepath.Join(dir, "root"), "--cert-dir="+filepath.Join(dir, "certs"))
	t.Cleanup(func() { _ = mountinfo.UnmountBelow(dir) })
	// Our controllers give nobody a certificate for the API server's address,
	// which here is the kubelet's as well.
	c.approvesServing(t)
	c.carries(t, "theirs")
}

// TestOurKubelet has `cox kubelet` join upstream's API server, controllers and
// scheduler.
func TestOurKubelet(t *testing.T) {
	c := upstreamServer(t)
	c.upstreamControllers(t)
	c.upstreamScheduler(t)
	c.apply(t, kubeletsAPI)
	r, cgroup := containers(t, c.pods)
	dir := t.TempDir()
	file := c.kubeletFile(t, dir, r.Endpoint(), programs.Port(t), "cgroupRoot: "+cgroup)
	programs.Start(t, c.cox, "kubelet", "--kubeconfig="+c.identity(t, "system:node:ours", "system:nodes"), "--config="+file,
		"--hostname-override=ours", "--root-dir="+filepath.Join(dir, "root"), "--cert-dir="+filepath.Join(dir, "certs"))
	t.Cleanup(func() { _ = mountinfo.UnmountBelow(dir) })
	c.carries(t, "ours")
}

// TestOurAgent has `cox agent` make this machine a node of upstream's
// cluster, with a token, our pod network, Service rules and DNS.
func TestOurAgent(t *testing.T) {
	c := upstreamServer(t)
	c.upstreamControllers(t)
	c.upstreamScheduler(t)
	c.apply(t, kubeletsAPI)
	dns := netip.MustParsePrefix(c.services).Addr().Next()
	for range 9 {
		dns = dns.Next()
	}
	manifest, err := os.ReadFile("testdata/agents.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.apply(t, strings.NewReplacer("PODS", c.pods, "SERVICES", c.services, "DNS", dns.String()).Replace(string(manifest)))
	token, err := exec.Command(c.cox, "token", "create", "--config=/dev/null", "--write-kubeconfig="+c.kubeconfig).Output()
	if err != nil {
		t.Fatalf("cox token create: %v", err)
	}
	name, data := fmt.Sprintf("ia%d", os.Getpid()), filepath.Join(c.dir, "agent")
	t.Cleanup(func() {
		if out, err := exec.Command(c.cox, "down", "--purge", "--config=/dev/null", "--name="+name, "--data-dir="+data).CombinedOutput(); err != nil {
			t.Errorf("purge: %v\n%s", err, out)
		}
	})
	programs.Start(t, c.cox, "agent", "--config=/dev/null", "--name="+name, "--data-dir="+data, "--node-name=ours",
		"--server="+c.url, "--token="+strings.TrimSpace(string(token)), "--kubelet-port="+programs.Port(t))
	c.approvesServing(t) // as upstream's controllers do not by themselves
	archive := filepath.Join(t.TempDir(), "busybox.tar")
	if err := os.WriteFile(archive, runtimetest.Archive(t, runtimetest.Busybox), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the image is imported", func() (bool, string) {
		out, err := exec.Command(c.cox, "image", "import", "--config=/dev/null", "--name="+name, "--data-dir="+data, archive).CombinedOutput()
		return err == nil, string(out)
	})
	c.carries(t, "ours")
	// The pod network and the DNS work, and the Service of the API leads there.
	c.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: asks}
spec:
  restartPolicy: Never
  containers: [{name: c, image: "cox.local/busybox:1", command: [sh, -c, "nslookup kubernetes.default.svc.cluster.local && nc -w 5 kubernetes.default.svc.cluster.local 443 < /dev/null"]}]
`)
	eventually(t, "a pod finds the API", func() (bool, string) {
		out, err := c.try("get", "pod", "asks", "-o", "jsonpath={.status.phase}")
		return err == nil && (out == "Succeeded" || out == "Failed"), out
	})
	if out := c.kubectl(t, "get", "pod", "asks", "-o", "jsonpath={.status.phase}"); out != "Succeeded" {
		t.Errorf("%s: %s", out, c.kubectl(t, "logs", "asks"))
	}
}
