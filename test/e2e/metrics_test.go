package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// burner uses all the CPU that it is allowed, twice what it asks for, and its
// autoscaler wants a fifth: more pods than there may be.
const burner = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: burner, namespace: measured}
spec:
  selector: {matchLabels: {app: burner}}
  template:
    metadata: {labels: {app: burner}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: fire
          image: example.local/redis:1
          command: [sh, -c, "while :; do :; done"]
          resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 100m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: burner, namespace: measured}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: burner}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 20}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`

// theirs is a metrics-server of the user's, installed as its own manifests do
// it, that listens at an address and a port.
const theirs = `
apiVersion: v1
kind: Service
metadata: {name: theirs, namespace: measured}
spec: {ports: [{name: https, port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: theirs, namespace: measured, labels: {kubernetes.io/service-name: theirs}}
addressType: IPv4
endpoints: [{addresses: [%q]}]
ports: [{name: https, port: %s}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {namespace: measured, name: theirs}
`

// measured is the namespace of this test.
type measured struct{ *cluster }

func in(args ...string) []string { return append([]string{"--namespace=measured"}, args...) }

// shows waits until a command prints what matches.
func (m *measured) shows(t *testing.T, pattern string, args ...string) {
	t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	eventually(t, pattern, func() (bool, string) {
		out, err := m.try(in(args...)...)
		return err == nil && re.MatchString(out), out
	})
}

// condition waits for a condition of the autoscaler.
func (m *measured) condition(t *testing.T, kind, want string) {
	t.Helper()
	m.shows(t, "^"+regexp.QuoteMeta(want)+"$", "get", "hpa", "burner", "-o",
		fmt.Sprintf(`jsonpath={range .status.conditions[?(@.type==%q)]}{.status} {.reason}: {.message}{end}`, kind))
}

// rescaled waits for the size and the event that tells of it.
func (m *measured) rescaled(t *testing.T, size int, reason string) {
	t.Helper()
	m.shows(t, fmt.Sprintf("^%d %[1]d$", size), "get", "deployment", "burner", "-o", "jsonpath={.spec.replicas} {.status.readyReplicas}")
	m.shows(t, "^Normal horizontal-pod-autoscaler "+regexp.QuoteMeta(fmt.Sprintf("New size: %d; reason: %s", size, reason))+"$",
		"get", "events", "--field-selector=involvedObject.kind=HorizontalPodAutoscaler,reason=SuccessfulRescale", "-o",
		`jsonpath={range .items[*]}{.type} {.source.component} {.message}{"\n"}{end}`)
}

// TestMetrics sees what pods use in `kubectl top` and in an autoscaler, first
// as this cluster measures it and then as a user's own metrics-server does.
func TestMetrics(t *testing.T) {
	m := &measured{sharedCluster(t)}
	m.images(t)
	m.kubectl(t, "create", "namespace", "measured")
	t.Cleanup(func() { m.kubectl(t, "delete", "namespace", "measured", "--wait=false") })
	const used = "cpu resource utilization (percentage of request)"
	t.Run("top", func(t *testing.T) {
		m.apply(t, burner)
		m.shows(t, `^\S+ +[1-9]\d*m +\d+% +[1-9]\d*Mi +\d+% *$`, "top", "node")
		m.shows(t, `^burner-\S+ +fire +[1-9]\d+m +\d+Mi *$`, "top", "pod", "--containers")
	})
	t.Run("autoscaler", func(t *testing.T) {
		m.rescaled(t, 3, used+" above target")
		m.condition(t, "ScalingActive", "True ValidMetricFound: the HPA was able to successfully calculate a replica count from "+used)
		m.condition(t, "ScalingLimited", "True TooManyReplicas: the desired replica count is more than the maximum replica count")
		m.kubectl(t, in("patch", "deployment", "burner", "--type=json",
			`--patch=[{"op": "replace", "path": "/spec/template/spec/containers/0/command/2", "value": "sleep 3600"}]`)...)
		m.rescaled(t, 1, "All metrics below target")
		m.condition(t, "ScalingLimited", "True TooFewReplicas: the desired replica count is less than the minimum replica count")
	})
	if !t.Failed() {
		t.Run("takeover", func(t *testing.T) { takesOver(t, m) })
	}
}

// takesOver installs a metrics-server, whose measures everybody gets until it
// is gone again.
func takesOver(t *testing.T, m *measured) {
	const apiService, figure = "apiservice/v1beta1.metrics.k8s.io", `^burner-\S+ +7777m +123Mi *$`
	var pod string
	eventually(t, "one pod alone", func() (one bool, out string) {
		pod = m.kubectl(t, in("get", "pods", "-o", "jsonpath={.items[*].metadata.name}")...)
		return pod != "" && !strings.Contains(pod, " "), pod
	})
	host := m.kubectl(t, "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM([]byte(m.kubectl(t, "-n", "kube-system", "get", "configmap", "extension-apiserver-authentication", "-o", `jsonpath={.data.requestheader-client-ca-file}`))) {
		t.Fatal("extension servers are not told whom to trust")
	}
	var users sync.Map // that have asked for pods
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/apis/metrics.k8s.io/v1beta1":
			fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"metrics.k8s.io/v1beta1","resources":[
				{"name":"pods","singularName":"","namespaced":true,"kind":"PodMetrics","verbs":["get","list"]}]}`)
		case "/apis/metrics.k8s.io/v1beta1/namespaces/measured/pods":
			users.Store(r.Header.Get("X-Remote-User"), true)
			fmt.Fprintf(w, `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[
				{"metadata":{"name":%q,"namespace":"measured"},"timestamp":%q,"window":"1s","containers":[{"name":"fire","usage":{"cpu":"7777m","memory":"123Mi"}}]}]}`,
				pod, time.Now().UTC().Format(time.RFC3339))
		default:
			http.NotFound(w, r)
		}
	}))
	var err error
	_ = server.Listener.Close()
	if server.Listener, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority}
	server.StartTLS()
	t.Cleanup(server.Close)

	t.Cleanup(func() { m.kubectl(t, "delete", apiService, "--ignore-not-found") })
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	m.apply(t, fmt.Sprintf(theirs, host, port))
	m.shows(t, "^measured/theirs True Passed$", "get", apiService, "-o",
		`jsonpath={.spec.service.namespace}/{.spec.service.name}{range .status.conditions[?(@.type=="Available")]} {.status} {.reason}{end}`)
	m.shows(t, figure, "top", "pod")
	m.rescaled(t, 3, "cpu resource utilization (percentage of request) above target")
	if _, asked := users.Load("system:serviceaccount:kube-system:horizontal-pod-autoscaler"); !asked {
		t.Error("the autoscaler's controller did not ask the server that has taken over")
	}

	m.kubectl(t, "delete", apiService)
	m.shows(t, "^Local True$", "get", apiService, "-o", `jsonpath={range .status.conditions[?(@.type=="Available")]}{.reason} {.status}{end}`)
	m.shows(t, `^burner-\S+ +\d{1,2}m +\d+Mi *$`, "top", "pod")
	if out := m.kubectl(t, in("top", "pod")...); regexp.MustCompile("(?m)" + figure).MatchString(out) {
		t.Errorf("measures of a server that is gone:\n%s", out)
	}
}
