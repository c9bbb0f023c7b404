package swap

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coxswain/cox/test/programs"
)

// objects are for most of the controllers.
const objects = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 10
  selector: {matchLabels: {app: d}}
  template: {metadata: {labels: {app: d}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: i}]}}
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {selector: {app: d}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: st}
spec:
  serviceName: s
  replicas: 3
  selector: {matchLabels: {app: st}}
  template: {metadata: {labels: {app: st}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: i}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ds}
spec:
  selector: {matchLabels: {app: ds}}
  template: {metadata: {labels: {app: ds}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: i}]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: b}
spec: {minAvailable: 9, selector: {matchLabels: {app: d}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`

// loops has whoever runs the controllers carry out objects of most of them,
// on simulated nodes.
func (c *cluster) loops(t *testing.T) {
	t.Helper()
	programs.Start(t, c.cox, "sim", "--kubeconfig="+c.kubeconfig, "--nodes=3")
	c.kubectl(t, "create", "namespace", "n")
	// The namespace is ready for pods, which also tells that controllers run.
	for _, made := range []string{"serviceaccount/default", "configmap/kube-root-ca.crt"} {
		eventually(t, made, func() (bool, string) {
			out, err := c.try("-n", "n", "get", made)
			return err == nil, out
		})
	}
	c.kubectl(t, "config", "set-context", "--current", "--namespace=n")
	// A quota counts for certain what comes once its status is there.
	c.kubectl(t, "create", "quota", "q", "--hard=pods=100")
	c.shows(t, "0", "status of the quota", "get", "quota", "q", "-o", "jsonpath={.status.used.pods}")
	c.apply(t, objects)
	for _, what := range []string{"deployment/d", "statefulset/st", "daemonset/ds"} {
		c.kubectl(t, "rollout", "status", what, "--timeout=3m")
	}
	c.shows(t, strings.TrimSpace(strings.Repeat("true ", 10)), "endpoints of the Service", "get", "endpointslices", "-l", "kubernetes.io/service-name=s", "-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")
	c.shows(t, "1", "disruptions allowed", "get", "pdb", "b", "-o", "jsonpath={.status.disruptionsAllowed}")
	c.shows(t, "16", "pods in the quota", "get", "quota", "q", "-o", "jsonpath={.status.used.pods}")
	c.kubectl(t, "set", "image", "deployment/d", "c=j")
	c.kubectl(t, "rollout", "status", "deployment/d", "--timeout=3m")
	// The collector learns of kinds that came later.
	c.kubectl(t, "wait", "--for=condition=Established", "crd/boats.example.com")
	eventually(t, "a custom object is made", func() (bool, string) {
		_, err := c.try("get", "boats")
		return err == nil, ""
	})
	c.apply(t, `{apiVersion: example.com/v1, kind: Boat, metadata: {name: owner}}`)
	owner := c.kubectl(t, "get", "boat", "owner", "-o", "jsonpath={.metadata.uid}")
	c.apply(t, strings.ReplaceAll(`{apiVersion: v1, kind: ConfigMap, metadata: {name: owned, ownerReferences: [{apiVersion: example.com/v1, kind: Boat, name: owner, uid: "UID"}]}}`, "UID", owner))
	c.kubectl(t, "delete", "boat", "owner")
	c.shows(t, "", "what a custom object owned", "get", "configmap", "owned", "--ignore-not-found", "-o", "name")
	c.kubectl(t, "delete", "namespace", "n", "--timeout=3m")
	if left := c.kubectl(t, "get", "pods", "-A", "-o", "name"); strings.TrimSpace(left) != "" {
		t.Errorf("left after the namespace: %s", left)
	}
}

// shows waits until kubectl prints what is wanted.
func (c *cluster) shows(t *testing.T, want, what string, args ...string) {
	t.Helper()
	eventually(t, what, func() (bool, string) {
		out, err := c.try(args...)
		return err == nil && strings.TrimSpace(out) == want, out
	})
}

// TestUpstreamControllers has upstream's controller manager in the place of
// ours, which is switched off.
func TestUpstreamControllers(t *testing.T) {
	c := coxServer(t, "--disable-controller-manager")
	c.upstreamControllers(t)
	c.loops(t)
}

// TestOurControllers has our controllers, each as its own service account, in
// the place of upstream's with upstream's API server.
func TestOurControllers(t *testing.T) {
	c := upstreamServer(t)
	c.upstreamScheduler(t)
	own, port := c.identity(t, "system:kube-controller-manager"), programs.Port(t)
	programs.Start(t, c.cox, "controller-manager", "--kubeconfig="+own, "--use-service-account-credentials",
		"--secure-port="+port, "--authentication-kubeconfig="+own, "--authorization-kubeconfig="+own, "--root-ca-file="+c.caFile, "--service-account-private-key-file="+c.accountKey,
		"--cluster-signing-cert-file="+c.caFile, "--cluster-signing-key-file="+c.caKey, "--allocate-node-cidrs", "--cluster-cidr="+c.pods)
	c.loops(t)
	c.tells(t, "https://127.0.0.1:"+port)
}

// tells sees that a component shows its metrics to those who may see them, by
// the API server's word, and nobody else.
func (c *cluster) tells(t *testing.T, url string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // its certificate is its own
	defer transport.CloseIdleConnections()
	ask := func(path, token string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	c.kubectl(t, "-n", "default", "create", "serviceaccount", "watcher")
	token := strings.TrimSpace(c.kubectl(t, "-n", "default", "create", "token", "watcher"))
	if code, body := ask("/healthz", ""); code != http.StatusOK || body != "ok" {
		t.Errorf("healthz: %d %s", code, body)
	}
	for _, who := range []string{"", token} {
		if code, body := ask("/metrics", who); code != http.StatusForbidden || !strings.Contains(body, "cannot get path") {
			t.Errorf("metrics: %d %s", code, body)
		}
	}
	if code, _ := ask("/metrics", "x"); code != http.StatusUnauthorized {
		t.Errorf("a bad token: %d", code)
	}
	c.kubectl(t, "create", "clusterrole", "watcher", "--verb=get", "--non-resource-url=/metrics")
	c.kubectl(t, "create", "clusterrolebinding", "watcher", "--clusterrole=watcher", "--serviceaccount=default:watcher")
	eventually(t, "who may see metrics sees them", func() (bool, string) {
		code, body := ask("/metrics", token)
		for _, want := range []string{
			`workqueue_adds_total{name="deployment"}`, `workqueue_depth{name="replicaset"}`, "rest_client_requests_total{",
			`leader_election_master_status{name="kube-controller-manager"} 1`, "go_goroutines", "process_resident_memory_bytes",
		} {
			if !strings.Contains(body, want) {
				return false, fmt.Sprint(code, " without ", want)
			}
		}
		return code == http.StatusOK, ""
	})
}

// TestSharedControllers has some of the controllers run by upstream's manager
// and the others by ours, both ways round. Each manager needs a lease of its
// own for that.
func TestSharedControllers(t *testing.T) {
	some := []string{
		"deployment-controller", "statefulset-controller", "endpointslice-controller", "resourcequota-controller", "namespace-controller",
		"serviceaccount-controller", "node-ipam-controller", "taint-eviction-controller",
	}
	for name, flip := range map[string]bool{"ours some": false, "ours the others": true} {
		t.Run(name, func(t *testing.T) {
			listed, others := strings.Join(some, ","), "*,-"+strings.Join(some, ",-")
			ours, theirs := listed, others
			if flip {
				ours, theirs = others, listed
			}
			c := upstreamServer(t)
			c.upstreamScheduler(t)
			c.upstreamControllers(t, "--controllers="+theirs)
			programs.Start(t, c.cox, "controller-manager", "--kubeconfig="+c.identity(t, "system:kube-controller-manager"), "--use-service-account-credentials",
				"--controllers="+ours, "--leader-elect-resource-name=cox-controller-manager", "--secure-port=0",
				"--root-ca-file="+c.caFile, "--service-account-private-key-file="+c.accountKey,
				"--cluster-signing-cert-file="+c.caFile, "--cluster-signing-key-file="+c.caKey, "--allocate-node-cidrs", "--cluster-cidr="+c.pods)
			c.loops(t)
		})
	}
}
