package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coxswain/cox/test/programs"
)

// secondLog is the end of the log of the cluster's second node.
func (c *cluster) secondLog() string {
	raw, err := os.ReadFile(filepath.Join(c.data, "nodes", "2", "cox", "log", "cox.log"))
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-6000):])
}

// killAgent ends the agent of the second node without warning.
func killAgent(t *testing.T, c *cluster) {
	t.Helper()
	second := *c
	second.data = filepath.Join(c.data, "nodes", "2", "cox")
	killServer(t, &second)
}

// twoNodes starts a cluster of two nodes and returns their names.
func twoNodes(t *testing.T, c *cluster) (first, second string) {
	t.Helper()
	c.must(t, "up", "--nodes=2")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the second node's log:\n%s", c.secondLog())
		}
	})
	nodes := strings.Fields(c.kubectl(t, "get", "nodes", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`))
	if len(nodes) != 2 || !strings.HasSuffix(nodes[0], "=True") || !strings.HasSuffix(nodes[1], "-2=True") {
		t.Fatalf("nodes after cox up --nodes=2: %v", nodes)
	}
	return strings.TrimSuffix(nodes[0], "=True"), strings.TrimSuffix(nodes[1], "=True")
}

// demo runs the demo image on a node; counter is the URL at which it counts.
func (c *cluster) demo(t *testing.T, name, node, counter string) {
	t.Helper()
	c.kubectl(t, "run", name, "--image=cox.local/demo:1", "--port=8080", "--env=COUNTER="+counter, fmt.Sprintf(`--overrides={"spec":{"nodeName":%q,"terminationGracePeriodSeconds":1}}`, node))
}

// fetch asks this machine's own network.
func fetch(url string) (string, error) {
	hc := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := hc.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

// TestTwoNodes has pods on two nodes reach each other in every way, and ends
// server and agent under them.
func TestTwoNodes(t *testing.T) {
	c := ownCluster(t)
	before := c.traces(t)
	first, second := twoNodes(t, c)
	eventually(t, "default service account", func() (bool, string) {
		out, err := c.try("get", "serviceaccount", "default")
		return err == nil, out
	})
	c.demo(t, "far", second, "")
	c.demo(t, "near", first, "")
	c.kubectl(t, "expose", "pod", "far", "--port=80", "--target-port=8080", "--type=NodePort")
	c.kubectl(t, "expose", "pod", "near", "--port=80", "--target-port=8080", "--type=NodePort")
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/far", "pod/near", "--timeout=2m")
	ip := func(pod string) string { return c.kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.podIP}") }
	far, near := ip("far"), ip("near")
	nodePort := c.kubectl(t, "get", "service", "far", "-o", "jsonpath={.spec.ports[0].nodePort}")
	firstAddress := c.kubectl(t, "get", "node", first, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)

	// Each shows "to all pods" once it has counted at the other.
	callers := map[string][2]string{
		"near-by-name": {first, "http://far"}, "far-by-name": {second, "http://near.default.svc.cluster.local"},
		"near-by-address": {first, "http://" + far + ":8080"}, "far-by-address": {second, "http://" + near + ":8080"},
		"far-by-own-service": {second, "http://far"},
		// There and back again.
		"far-by-others-node-port": {second, "http://" + net.JoinHostPort(firstAddress, nodePort)},
	}
	for name, at := range callers {
		c.demo(t, name, at[0], at[1])
	}
	for name := range callers {
		c.kubectl(t, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=2m")
		eventually(t, name, func() (bool, string) {
			page, err := c.try("get", "--raw", "/api/v1/namespaces/default/pods/"+name+":8080/proxy/")
			return err == nil && strings.Contains(page, "to all pods"), page
		})
	}
	for _, service := range []string{"far", "near"} {
		if out := c.kubectl(t, "get", "--raw", "/api/v1/namespaces/default/services/"+service+":80/proxy/healthz"); strings.TrimSpace(out) != "ok" {
			t.Errorf("service %s through the API server: %q", service, out)
		}
	}
	if log := c.kubectl(t, "logs", "far"); !strings.Contains(log, ":8080") {
		t.Errorf("log of a pod on the second node: %q", log)
	}
	// The demo image has no shell: its own program answers, if only with an
	// error, which proves that it was started there.
	if out, err := c.try("exec", "far", "--", "/no-such-program"); err == nil || !strings.Contains(out, "no such file") {
		t.Errorf("exec on the second node: %v %s", err, out)
	}

	t.Run("own host", func(t *testing.T) { ownHost(t, c, second, firstAddress) })
	t.Run("images", func(t *testing.T) { imagesOfNodes(t, c, first, second) })
	t.Run("without cox", func(t *testing.T) {
		killServer(t, c)
		killAgent(t, c)
		for name, address := range map[string]string{"far": far, "near": near} {
			if out, err := fetch("http://" + address + ":8080/healthz"); err != nil || out != "ok" {
				t.Errorf("%s: %v %q", name, err, out)
			}
		}
		twoNodes(t, c)
		restarts := c.kubectl(t, "get", "pods", "-o", `jsonpath={.items[*].status.containerStatuses[*].restartCount}`)
		if strings.Trim(restarts, "0 ") != "" {
			t.Errorf("containers were restarted: %s", restarts)
		}
		if far != ip("far") {
			t.Error("the pod on the second node has another address")
		}
		c.kubectl(t, "wait", "--for=condition=Ready", "pod/far", "--timeout=2m")
	})
	t.Run("an agent outlives its server", func(t *testing.T) {
		killServer(t, c)
		c.must(t, "up")
		// A change made now arrives at the agent that was there all along.
		c.demo(t, "later", second, "http://near")
		c.kubectl(t, "wait", "--for=condition=Ready", "pod/later", "--timeout=2m")
	})
	t.Run("remove", func(t *testing.T) {
		c.must(t, "node", "remove", second, "--force")
		if out := c.kubectl(t, "get", "nodes", "-o", "name"); strings.TrimSpace(out) != "node/"+first {
			t.Errorf("nodes: %s", out)
		}
		if routes := output(t, "ip", "route"); strings.Contains(routes, " via "+"10.89.") && strings.Contains(routes, strings.TrimSuffix(c.flag("cluster-cidr"), "0.0/16")+"1.0/24") {
			t.Errorf("the route to the removed node stayed:\n%s", routes)
		}
	})
	c.must(t, "down", "--purge")
	c.leftNothing(t, before, nil)
}

// ownHost looks at the second node from a pod in its own network: it has a
// host name of its own, and the first node comes with the address that it is
// known by, not with that of the bridge between them.
func ownHost(t *testing.T, c *cluster, second, firstAddress string) {
	c.kubectl(t, "run", "in-its-net", "--image=cox.local/demo:1", "--port=8080",
		fmt.Sprintf(`--overrides={"spec":{"nodeName":%q,"hostNetwork":true,"terminationGracePeriodSeconds":1}}`, second))
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/in-its-net", "--timeout=2m")
	address := c.kubectl(t, "get", "pod", "in-its-net", "-o", "jsonpath={.status.hostIP}")
	if page, err := fetch("http://" + net.JoinHostPort(address, "8080")); err != nil || !strings.Contains(page, second) {
		t.Errorf("a pod in the network of node %s does not go by its name: %v\n%s", second, err, page)
	}
	if route := output(t, "ip", "route", "get", address); !strings.Contains(route+" ", " src "+firstAddress+" ") {
		t.Errorf("this machine, %s, comes to the second node with another address: %s", firstAddress, route)
	}
	c.kubectl(t, "delete", "pod", "in-its-net")
}

// TestJoinRefused shows an agent tokens that are not this cluster's.
func TestJoinRefused(t *testing.T) {
	c := ownCluster(t)
	c.must(t, "up")
	server := "--server=https://127.0.0.1:" + c.flag("https-listen-port")
	token := func(args ...string) string {
		out := c.must(t, append([]string{"token", "create"}, args...)...)
		line, _, _ := strings.Cut(out, "\n")
		return line
	}
	good := token()
	deleted := token()
	id := strings.Split(deleted, ".")[1]
	c.must(t, "token", "delete", id)
	if list := c.must(t, "token", "list"); strings.Contains(list, id) || !strings.Contains(list, strings.Split(good, ".")[1]) || strings.Contains(list, strings.Split(good, ".")[2]) {
		t.Errorf("tokens after one was deleted, which must not show secrets:\n%s", list)
	}
	flip := func(s string) string {
		if s[0] == '0' {
			return "1" + s[1:]
		}
		return "0" + s[1:]
	}
	expired := token("--ttl=1ms")
	for name, tc := range map[string]struct{ token, want string }{
		"none":             {"", "cox token create"},
		"no token":         {"nonsense", "not a join token"},
		"other cluster":    {flip(good), "does not belong to the cluster of this token"},
		"wrong secret":     {good[:len(good)-16] + flip(good[len(good)-16:]), "wrong or has expired"},
		"deleted":          {deleted, "wrong or has expired"},
		"expired":          {expired, "wrong or has expired"},
		"node of a server": {good, "exist already"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			port, err := programs.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			agent := c.name + "x"
			flags := []string{"--config=/dev/null", "--name=" + agent, "--data-dir=" + filepath.Join(dir, "data")}
			defer func() {
				if out, err := exec.Command(programs.Cox(), append([]string{"down", "--purge"}, flags...)...).CombinedOutput(); err != nil {
					t.Errorf("purge: %v %s", err, out)
				}
			}()
			node := "stranger"
			if name == "node of a server" {
				node = c.nodeName()
			}
			cmd := exec.Command(programs.Cox(), append([]string{"agent", server, "--node-name=" + node, "--kubelet-port=" + port}, flags...)...)
			cmd.Env = append(os.Environ(), "COX_TOKEN="+tc.token)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
			err = cmd.Wait()
			timer.Stop()
			if err == nil || !strings.Contains(out.String(), tc.want) {
				t.Errorf("ended with %v, want %q:\n%s", err, tc.want, out.String())
			}
			if secret := tc.token[max(0, len(tc.token)-16):]; len(tc.token) > 16 && strings.Contains(out.String(), secret) {
				t.Error("the token's secret was logged")
			}
		})
	}
	if out := c.kubectl(t, "get", "nodes", "-o", "name"); strings.Count(out, "\n") > 1 || strings.Contains(out, "stranger") {
		t.Errorf("nodes: %s", out)
	}
}
