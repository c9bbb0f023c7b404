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
	"sync/atomic"
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
		t.Run("foreign", func(t *testing.T) { scalesByForeign(t, m) })
	}
	if !t.Failed() {
		t.Run("takeover", func(t *testing.T) { takesOver(t, m) })
	}
}

// extension serves what the API server passes on, which alone is let in, where
// the API server reaches it.
func (m *measured) extension(t *testing.T, answer http.HandlerFunc) (host, port string) {
	t.Helper()
	host = m.kubectl(t, "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM([]byte(m.kubectl(t, "-n", "kube-system", "get", "configmap", "extension-apiserver-authentication", "-o", `jsonpath={.data.requestheader-client-ca-file}`))) {
		t.Fatal("extension servers are not told whom to trust")
	}
	server := httptest.NewUnstartedServer(answer)
	_ = server.Listener.Close()
	var err error
	if server.Listener, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, _ = net.SplitHostPort(server.Listener.Addr().String())
	return host, port
}

// foreign are the metrics of a user's adapter, and what is scaled by them and,
// by one container of two, by this cluster's own.
const foreign = `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta2.custom.metrics.k8s.io}
spec:
  group: custom.metrics.k8s.io
  version: v1beta2
  groupPriorityMinimum: 100
  versionPriority: 200
  insecureSkipTLSVerify: true
  service: {namespace: measured, name: adapter}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.external.metrics.k8s.io}
spec:
  group: external.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {namespace: measured, name: adapter}
`

// scaled is a Deployment and its autoscaler by one metric.
const scaled = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: measured}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: fire
          image: example.local/redis:1
          command: [sh, -c, "%[2]s"]
          resources: {requests: {cpu: 20m, memory: 8Mi}, limits: {cpu: 50m}}
        - name: calm
          image: example.local/redis:1
          command: [sleep, "3600"]
          resources: {requests: {cpu: 10m, memory: 8Mi}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: %[1]s, namespace: measured}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %[1]s}
  minReplicas: 1
  maxReplicas: 3
  metrics: [%[3]s]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`

// scalesByForeign has autoscalers follow a container, and pods', an object's
// and an external metric of an adapter of the user's, up and down.
func scalesByForeign(t *testing.T, m *measured) {
	m.kubectl(t, in("delete", "deployment/burner", "hpa/burner", "--ignore-not-found")...)
	t.Cleanup(func() { m.apply(t, burner) }) // for whoever comes next
	var high atomic.Bool
	high.Store(true)
	host, port := m.extension(t, func(w http.ResponseWriter, r *http.Request) {
		value := "1"
		if high.Load() {
			value = "20"
		}
		item := `{"describedObject":{"kind":%q,"name":%q,"namespace":"measured"},"metric":{"name":%q},"timestamp":%q,"value":%q}`
		now := time.Now().UTC().Format(time.RFC3339)
		w.Header().Set("Content-Type", "application/json")
		const custom = `{"kind":"MetricValueList","apiVersion":"custom.metrics.k8s.io/v1beta2","metadata":{},"items":[%s]}`
		switch r.URL.Path {
		case "/apis/custom.metrics.k8s.io/v1beta2":
			fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"custom.metrics.k8s.io/v1beta2","resources":[
				{"name":"pods/queue","singularName":"","namespaced":true,"kind":"MetricValueList","verbs":["get"]}]}`)
		case "/apis/external.metrics.k8s.io/v1beta1":
			fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"external.metrics.k8s.io/v1beta1","resources":[
				{"name":"backlog","singularName":"","namespaced":true,"kind":"ExternalMetricValueList","verbs":["get"]}]}`)
		case "/apis/custom.metrics.k8s.io/v1beta2/namespaces/measured/pods/*/queue":
			names, err := m.try(in("get", "pods", "-l", r.URL.Query().Get("labelSelector"), "-o", "jsonpath={.items[*].metadata.name}")...)
			if err != nil {
				http.Error(w, names, http.StatusInternalServerError)
				return
			}
			var items []string
			for _, name := range strings.Fields(names) {
				items = append(items, fmt.Sprintf(item, "Pod", name, "queue", now, value))
			}
			fmt.Fprintf(w, custom, strings.Join(items, ","))
		case "/apis/custom.metrics.k8s.io/v1beta2/namespaces/measured/services/adapter/hits":
			fmt.Fprintf(w, custom, fmt.Sprintf(item, "Service", "adapter", "hits", now, value))
		case "/apis/external.metrics.k8s.io/v1beta1/namespaces/measured/backlog":
			if r.URL.Query().Get("labelSelector") != "lane=fast" {
				value = "0"
			}
			fmt.Fprintf(w, `{"kind":"ExternalMetricValueList","apiVersion":"external.metrics.k8s.io/v1beta1","metadata":{},"items":[{"metricName":"backlog","metricLabels":{},"timestamp":%q,"value":%q}]}`, now, value)
		default:
			http.NotFound(w, r)
		}
	})
	t.Cleanup(func() {
		m.kubectl(t, "delete", "apiservice", "v1beta2.custom.metrics.k8s.io", "v1beta1.external.metrics.k8s.io", "--ignore-not-found")
	})
	service, _, _ := strings.Cut(strings.ReplaceAll(theirs, "theirs", "adapter"), "---\napiVersion: apiregistration")
	m.apply(t, fmt.Sprintf(service, host, port)+"---"+foreign)
	for name, by := range map[string]string{
		"heat":    `{type: ContainerResource, containerResource: {container: fire, name: cpu, target: {type: Utilization, averageUtilization: 20}}}`,
		"queue":   `{type: Pods, pods: {metric: {name: queue}, target: {type: AverageValue, averageValue: "10"}}}`,
		"hits":    `{type: Object, object: {metric: {name: hits}, describedObject: {apiVersion: v1, kind: Service, name: adapter}, target: {type: Value, value: "10"}}}`,
		"backlog": `{type: External, external: {metric: {name: backlog, selector: {matchLabels: {lane: fast}}}, target: {type: AverageValue, averageValue: "10"}}}`,
	} {
		does := "sleep 3600"
		if name == "heat" {
			does = "while :; do :; done"
		}
		m.apply(t, fmt.Sprintf(scaled, name, does, by))
	}
	const size = "jsonpath={.spec.replicas} {.status.readyReplicas}"
	m.shows(t, "^3 3$", "get", "deployment", "heat", "-o", size)
	m.shows(t, "^3 3$", "get", "deployment", "queue", "-o", size)   // 20 of each pod, wherever it is
	m.shows(t, "^3 3$", "get", "deployment", "hits", "-o", size)    // twice what is wanted, whatever the size
	m.shows(t, "^2 2$", "get", "deployment", "backlog", "-o", size) // 20 in all, 10 for each
	m.shows(t, `^ContainerResource fire cpu \d+$`, "get", "hpa", "heat", "-o",
		"jsonpath={range .status.currentMetrics[*]}{.type} {.containerResource.container} {.containerResource.name} {.containerResource.current.averageUtilization}{end}")
	m.shows(t, "^External backlog 10$", "get", "hpa", "backlog", "-o",
		"jsonpath={range .status.currentMetrics[*]}{.type} {.external.metric.name} {.external.current.averageValue}{end}")
	high.Store(false)
	for _, name := range []string{"queue", "hits", "backlog"} {
		m.shows(t, "^1 1$", "get", "deployment", name, "-o", size)
	}
	// An adapter that is gone leaves sizes as they are, and says why.
	m.kubectl(t, "delete", "apiservice", "v1beta1.external.metrics.k8s.io")
	m.shows(t, "^1 False FailedGetExternalMetric$", "get", "hpa", "backlog", "-o",
		`jsonpath={.status.desiredReplicas}{range .status.conditions[?(@.type=="ScalingActive")]} {.status} {.reason}{end}`)
	m.kubectl(t, in("delete", "deployment,hpa", "heat", "queue", "hits", "backlog")...)
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
	var users sync.Map // that have asked for pods
	host, port := m.extension(t, func(w http.ResponseWriter, r *http.Request) {
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
	})
	t.Cleanup(func() { m.kubectl(t, "delete", apiService, "--ignore-not-found") })
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
	m.shows(t, `^burner-\S+ +\d{1,3}m +\d+Mi *$`, "top", "pod")
	if out := m.kubectl(t, in("top", "pod")...); regexp.MustCompile("(?m)" + figure).MatchString(out) {
		t.Errorf("measures of a server that is gone:\n%s", out)
	}
}
