package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// demos lists the processes of a pod's demo containers, on whichever of this
// machine's nodes they run.
func demos(uid string) []int {
	var out []int
	groups, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, path := range groups {
		dir := filepath.Dir(path)
		group, _ := os.ReadFile(path)
		if !bytes.Contains(group, []byte("/pod"+uid)) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && bytes.HasPrefix(cmdline, []byte("/demo\x00")) {
			out = append(out, pid)
		}
	}
	return out
}

// demoOf is the one process of a pod's demo container.
func demoOf(t *testing.T, pod, uid string) int {
	t.Helper()
	pids := demos(uid)
	if len(pids) != 1 {
		t.Fatalf("processes of the pod %s: %v, want one", pod, pids)
	}
	return pids[0]
}

func (c *cluster) uid(t *testing.T, pod string) string {
	t.Helper()
	return c.kubectl(t, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
}

func (c *cluster) restarts(t *testing.T, pod string) string {
	t.Helper()
	return c.kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
}

// awaitAccount waits for what pods cannot be made without.
func (c *cluster) awaitAccount(t *testing.T) {
	t.Helper()
	eventually(t, "default service account", func() (bool, string) {
		out, err := c.try("get", "serviceaccount", "default")
		return err == nil, out
	})
}

// TestAgentAlone takes every server away from an agent, which keeps its pods
// running, those that crash too, and then the agent from the server, which
// goes on changing what the agent is to do: each catches up with the other.
func TestAgentAlone(t *testing.T) {
	c := ownCluster(t)
	_, second := twoNodes(t, c)
	c.awaitAccount(t)
	uids, ips := map[string]string{}, map[string]string{}
	for _, pod := range []string{"stays", "crashes", "deleted", "forced"} {
		c.demo(t, pod, second, "")
	}
	c.kubectl(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=2m")
	for _, pod := range []string{"stays", "crashes", "deleted", "forced"} {
		uids[pod] = c.uid(t, pod)
		ips[pod] = c.kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
	}
	old := demoOf(t, "stays", uids["stays"])

	t.Run("no server", func(t *testing.T) {
		killServer(t, c)
		crashed := demoOf(t, "crashes", uids["crashes"])
		if err := syscall.Kill(crashed, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the crashed container again", func() (bool, string) {
			pids := demos(uids["crashes"])
			return len(pids) == 1 && pids[0] != crashed, fmt.Sprint(pids)
		})
		for pod, ip := range ips {
			eventually(t, pod, func() (bool, string) {
				out, err := fetch("http://" + ip + ":8080/healthz")
				return err == nil && out == "ok", fmt.Sprint(out, err)
			})
		}
		c.must(t, "up")
		eventually(t, "the restart in the pod's status", func() (bool, string) {
			out := c.restarts(t, "crashes")
			return out == "1", out
		})
		c.kubectl(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=2m")
	})
	t.Run("no agent", func(t *testing.T) {
		killAgent(t, c)
		c.kubectl(t, "delete", "pod", "deleted", "--wait=false")
		c.kubectl(t, "delete", "pod", "forced", "--force", "--grace-period=0")
		c.demo(t, "fresh", second, "")
		for _, pod := range []string{"deleted", "forced"} {
			demoOf(t, pod, uids[pod]) // nobody is there to end it
		}
		c.must(t, "up")
		c.kubectl(t, "wait", "--for=condition=Ready", "pod/fresh", "--timeout=2m")
		c.kubectl(t, "wait", "--for=delete", "pod/deleted", "--timeout=2m")
		for _, pod := range []string{"deleted", "forced"} {
			eventually(t, "the end of "+pod, func() (bool, string) { pids := demos(uids[pod]); return len(pids) == 0, fmt.Sprint(pids) })
		}
	})
	if now := demos(uids["stays"]); !slices.Equal(now, []int{old}) || c.restarts(t, "stays") != "0" {
		t.Errorf("the pod that nothing happened to: processes %v, want %d alone, restarted %s times", now, old, c.restarts(t, "stays"))
	}
	if n := c.restarts(t, "crashes"); n != "1" {
		t.Errorf("the pod that crashed once was restarted %s times", n)
	}
}

// evictable is a Deployment whose pods leave a node that is gone after two
// seconds.
const evictable = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: moves}
spec:
  selector: {matchLabels: {app: moves}}
  template:
    metadata: {labels: {app: moves}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: demo, image: "cox.local/demo:1"}]
      tolerations:
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
`

// TestReturningNode lets a node fall silent whose containers run on. Its pods
// are replaced elsewhere; when it is back, they run there only, and what was
// not evicted runs on.
func TestReturningNode(t *testing.T) {
	c := ownCluster(t)
	c.flags = append(c.flags, "--node-monitor-grace-period=18s") // nodes are heard every 10 s
	first, second := twoNodes(t, c)
	c.awaitAccount(t)
	c.kubectl(t, "cordon", first)
	c.apply(t, evictable)
	c.demo(t, "patient", second, "") // tolerates five minutes
	c.kubectl(t, "rollout", "status", "deployment/moves", "--timeout=2m")
	c.kubectl(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=2m")
	c.kubectl(t, "uncordon", first)
	pods := func() []string { // name, uid and node of each
		return strings.Split(strings.TrimSpace(c.kubectl(t, "get", "pods", "-l", "app=moves", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.spec.nodeName}{"\n"}{end}`)), "\n")
	}
	before := pods()
	if len(before) != 1 || !strings.HasSuffix(before[0], " "+second) {
		t.Fatalf("pods of the Deployment: %q, want one on %s", before, second)
	}
	moved := strings.Fields(before[0])
	patient := demoOf(t, "patient", c.uid(t, "patient"))
	ready := func() string {
		return c.kubectl(t, "get", "node", second, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	}

	killAgent(t, c)
	eventually(t, "a silent node", func() (bool, string) { s := ready(); return s == "Unknown", s })
	replacement := ""
	eventually(t, "a replacement on the other node", func() (bool, string) {
		now := pods()
		for _, line := range now {
			if f := strings.Fields(line); len(f) == 3 && f[2] == first {
				replacement = f[0]
			}
		}
		return replacement != "", strings.Join(now, ", ")
	})
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/"+replacement, "--timeout=2m")
	if c.kubectl(t, "get", "pod", moved[0], "-o", "jsonpath={.metadata.deletionTimestamp}") == "" {
		t.Errorf("the pod %s on the silent node was not evicted", moved[0])
	}
	demoOf(t, moved[0], moved[1]) // nobody is there to end it

	c.must(t, "up")
	eventually(t, "the node's return", func() (bool, string) { s := ready(); return s == "True", s })
	eventually(t, "the end of the evicted pod", func() (bool, string) {
		pids, now := demos(moved[1]), pods()
		return len(pids) == 0 && len(now) == 1 && strings.HasPrefix(now[0], replacement+" "), fmt.Sprint(pids, now)
	})
	eventually(t, "a node without taints", func() (bool, string) {
		taints := c.kubectl(t, "get", "node", second, "-o", "jsonpath={.spec.taints}")
		return taints == "", taints
	})
	demoOf(t, replacement, c.uid(t, replacement))
	if now := demoOf(t, "patient", c.uid(t, "patient")); now != patient || c.restarts(t, "patient") != "0" {
		t.Errorf("the pod that was not evicted: process %d, was %d; restarted %s times", now, patient, c.restarts(t, "patient"))
	}
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/patient", "--timeout=2m")
}
