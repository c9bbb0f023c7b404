package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestPodStatus has the words that `kubectl get pods` finds for a pod, as
// READY, STATUS and RESTARTS.
func TestPodStatus(t *testing.T) {
	const two = `spec: {containers: [{name: a}, {name: b}], initContainers: [{name: i}, {name: j}]}` + "\n"
	const sidecar = `spec: {containers: [{name: a}], initContainers: [{name: s, restartPolicy: Always}]}` + "\n"
	const deleted = `metadata: {name: p, deletionTimestamp: "2026-01-01T00:00:00Z"}` + "\n"
	k := kindOf(t, "pods")
	for name, tc := range map[string]struct{ manifest, want string }{
		"pending":          {two + `status: {phase: Pending}`, "0/2 Pending 0"},
		"gated":            {two + `status: {phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: SchedulingGated}]}`, "0/2 SchedulingGated 0"},
		"reason":           {two + `status: {phase: Failed, reason: Evicted}`, "0/2 Evicted 0"},
		"first init":       {two + `status: {phase: Pending, initContainerStatuses: [{name: i, state: {running: {}}}]}`, "0/2 Init:0/2 0"},
		"second init":      {two + `status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}}, {name: j, state: {waiting: {reason: PodInitializing}}}]}`, "0/2 Init:1/2 0"},
		"init fails":       {two + `status: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}}]}`, "0/2 Init:CrashLoopBackOff 3"},
		"init exit":        {two + `status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 2}}}]}`, "0/2 Init:ExitCode:2 0"},
		"init signal":      {two + `status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 2, signal: 9}}}]}`, "0/2 Init:Signal:9 0"},
		"running":          {two + `status: {phase: Running, containerStatuses: [{name: a, ready: true, restartCount: 1, state: {running: {}}}, {name: b, ready: true, state: {running: {}}}]}`, "2/2 Running 1"},
		"crash loop":       {two + `status: {phase: Running, containerStatuses: [{name: a, restartCount: 5, state: {waiting: {reason: CrashLoopBackOff}}}, {name: b, ready: true, state: {running: {}}}]}`, "1/2 CrashLoopBackOff 5"},
		"image":            {two + `status: {phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ImagePullBackOff}}}]}`, "0/2 ImagePullBackOff 0"},
		"error":            {two + `status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 1, reason: Error}}}]}`, "0/2 Error 0"},
		"exit code":        {two + `status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 1}}}]}`, "0/2 ExitCode:1 0"},
		"completed":        {two + `status: {phase: Succeeded, containerStatuses: [{name: a, state: {terminated: {reason: Completed}}}]}`, "0/2 Completed 0"},
		"one completed":    {two + `status: {phase: Running, containerStatuses: [{name: a, state: {terminated: {reason: Completed}}}, {name: b, ready: true, state: {running: {}}}]}`, "1/2 NotReady 0"},
		"one completed ok": {two + `status: {phase: Running, conditions: [{type: Ready, status: "True"}], containerStatuses: [{name: a, state: {terminated: {reason: Completed}}}, {name: b, ready: true, state: {running: {}}}]}`, "1/2 Running 0"},
		"sidecar":          {sidecar + `status: {phase: Running, initContainerStatuses: [{name: s, started: true, ready: true, restartCount: 2, state: {running: {}}}], containerStatuses: [{name: a, ready: true, restartCount: 1, state: {running: {}}}]}`, "2/2 Running 3"},
		"sidecar starts":   {sidecar + `status: {phase: Pending, initContainerStatuses: [{name: s, started: false, state: {running: {}}}]}`, "0/2 Init:0/1 0"},
		"terminating":      {deleted + two + `status: {phase: Running}`, "0/2 Terminating 0"},
		"ended":            {deleted + two + `status: {phase: Succeeded, containerStatuses: [{name: a, state: {terminated: {reason: Completed}}}]}`, "0/2 Completed 0"},
		"lost":             {deleted + two + `status: {phase: Running, reason: NodeLost}`, "0/2 Unknown 0"},
	} {
		c := k.Cells(parse(t, k, tc.manifest))
		if got := fmt.Sprint(c[1], " ", c[2], " ", c[3]); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestRestartsTellWhen(t *testing.T) {
	k := kindOf(t, "pods")
	p := parse(t, k, `{spec: {containers: [{name: a}]}, status: {phase: Running, containerStatuses: [{name: a, restartCount: 2, lastState: {terminated: {exitCode: 1}}, state: {running: {}}}]}}`).(*corev1.Pod)
	p.Status.ContainerStatuses[0].LastTerminationState.Terminated.FinishedAt = metav1.NewTime(time.Now().Add(-190*time.Minute - 30*time.Second))
	if got := k.Cells(p)[3]; got != "2 (3h10m ago)" {
		t.Errorf("restarts %q", got)
	}
}

// TestCells has one row of each other kind; ages differ and are left out.
func TestCells(t *testing.T) {
	for _, tc := range []struct{ resource, manifest, want string }{
		{"pods", `{metadata: {name: p}, spec: {nodeName: node1, readinessGates: [{conditionType: a/b}, {conditionType: c}]}, status: {nominatedNodeName: m, podIPs: [{ip: 1.2.3.4}], conditions: [{type: a/b, status: "True"}]}}`, "p|0/0||0|<unknown>|1.2.3.4|node1|m|1/2"},
		{"nodes", `{metadata: {name: node1, labels: {node-role.kubernetes.io/control-plane: "", kubernetes.io/role: worker}}, spec: {unschedulable: true}, status: {conditions: [{type: Ready, status: "True"}], addresses: [{type: InternalIP, address: 10.0.0.1}], nodeInfo: {kubeletVersion: v1.36.0, osImage: os, kernelVersion: kv, containerRuntimeVersion: c}}}`,
			"node1|Ready,SchedulingDisabled|control-plane,worker|<unknown>|v1.36.0|10.0.0.1|<none>|os|kv|c"},
		{"nodes", `{metadata: {name: node1}, status: {conditions: [{type: Ready, status: Unknown}]}}`, "node1|NotReady|<none>|<unknown>||<none>|<none>|<unknown>|<unknown>|<unknown>"},
		{"namespaces", `{metadata: {name: ns}, status: {phase: Active}}`, "ns|Active|<unknown>"},
		{"services", `{metadata: {name: s}, spec: {type: NodePort, clusterIPs: [10.0.0.1], selector: {a: b}, ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 53, protocol: UDP}]}}`, "s|NodePort|10.0.0.1|<none>|80:30080/TCP,53/UDP|<unknown>|a=b"},
		{"services", `{metadata: {name: s}, spec: {type: LoadBalancer}}`, "s|LoadBalancer|<none>|<pending>|<none>|<unknown>|<none>"},
		{"services", `{metadata: {name: s}, spec: {type: LoadBalancer, externalIPs: [9.9.9.9]}, status: {loadBalancer: {ingress: [{ip: 2.2.2.2}, {hostname: a.b}]}}}`, "s|LoadBalancer|<none>|2.2.2.2,a.b,9.9.9.9|<none>|<unknown>|<none>"},
		{"services", `{metadata: {name: s}, spec: {type: ExternalName, externalName: a.b}}`, "s|ExternalName|<none>|a.b|<none>|<unknown>|<none>"},
		{"endpoints", `{metadata: {name: e}, subsets: [{addresses: [{ip: 1.1.1.1}, {ip: 1.1.1.2}], ports: [{port: 1}, {port: 2}]}]}`, "e|1.1.1.1:1,1.1.1.2:1,1.1.1.1:2 + 1 more...|<unknown>"},
		{"endpoints", `{metadata: {name: e}}`, "e|<none>|<unknown>"},
		{"configmaps", `{metadata: {name: c}, data: {a: b}, binaryData: {c: eA==}}`, "c|2|<unknown>"},
		{"secrets", `{metadata: {name: s}, type: Opaque, data: {a: eA==}}`, "s|Opaque|1|<unknown>"},
		{"serviceaccounts", `{metadata: {name: s}, secrets: [{name: a}]}`, "s|<unknown>"},
		{"events", `{metadata: {name: e}, type: Normal, reason: R, message: " m ", involvedObject: {kind: Pod, name: p, fieldPath: fp}, source: {component: kubelet, host: h}}`, "<unknown>|Normal|R|pod/p|fp|kubelet, h|m|<unknown>|1|e"},
		{"persistentvolumes", `{metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteMany, ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, claimRef: {namespace: ns, name: c}, storageClassName: fast, volumeMode: Filesystem}, status: {phase: Bound}}`,
			"v|1Gi|RWO,RWX|Retain|Bound|ns/c|fast|<unset>||<unknown>|Filesystem"},
		{"persistentvolumeclaims", `{metadata: {name: c}, spec: {volumeName: v, storageClassName: fast, volumeMode: Block}, status: {phase: Bound, accessModes: [ReadWriteOncePod], capacity: {storage: 1Gi}}}`, "c|Bound|v|1Gi|RWOP|fast|<unset>|<unknown>|Block"},
		{"replicationcontrollers", `{metadata: {name: r}, spec: {replicas: 3, selector: {a: b}, template: {spec: {containers: [{name: c, image: i}]}}}, status: {replicas: 2, readyReplicas: 1}}`, "r|3|2|1|<unknown>|c|i|a=b"},
		{"resourcequotas", `{metadata: {name: q}, status: {hard: {pods: 2, limits.cpu: 4}, used: {pods: 1, limits.cpu: 500m}}}`, "q|pods: 1/2|limits.cpu: 500m/4|<unknown>"},
		{"podtemplates", `{metadata: {name: t}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}`, "t|c|i|a=b"},
		{"componentstatuses", `{metadata: {name: etcd-0}, conditions: [{type: Healthy, status: "True", message: ok}]}`, "etcd-0|Healthy|ok|"},
	} {
		k := kindOf(t, tc.resource)
		var got []string
		for _, c := range k.Cells(parse(t, k, tc.manifest)) {
			got = append(got, fmt.Sprint(c))
		}
		if s := strings.Join(got, "|"); s != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.resource, s, tc.want)
		}
	}
}

// TestEventViews converts an event with every field there and back, and holds
// the pairs of names.
func TestEventViews(t *testing.T) {
	k := kindOf(t, "events")
	e := parse(t, k, `
metadata: {name: e, namespace: ns}
involvedObject: {kind: Pod, name: p}
related: {kind: Node, name: x}
reason: R
message: m
source: {component: c, host: h}
firstTimestamp: "2026-01-01T00:00:00Z"
lastTimestamp: "2026-01-01T00:00:01Z"
count: 2
type: Normal
eventTime: "2026-01-01T00:00:00.000001Z"
series: {count: 3, lastObservedTime: "2026-01-01T00:00:00.000002Z"}
action: A
reportingComponent: rc
reportingInstance: ri
`).(*corev1.Event)
	v := k.Views[1]
	if v.Group != "events.k8s.io" {
		t.Fatalf("view %v", v.GroupVersionKind)
	}
	view, err := v.FromHub(e)
	if err != nil {
		t.Fatal(err)
	}
	back, err := v.ToHub(view)
	if err != nil || !apiequality.Semantic.DeepEqual(back, e) {
		a, _ := yaml.Marshal(back)
		t.Errorf("%v: lost on the way:\n%s", err, a)
	}
	n := view.(*eventsv1.Event)
	if n.Note != "m" || n.Regarding.Name != "p" || n.DeprecatedCount != 2 || n.ReportingController != "rc" {
		t.Errorf("%+v", n)
	}
	errs := v.Check(e, nil)
	if len(errs) != 4 || errs[0].Error() != `firstTimestamp: Invalid value: "": needs to be unset` {
		t.Errorf("older fields in a newer event: %v", errs)
	}
	changed := e.DeepCopy()
	changed.Message, changed.Series.Count = "other", 4
	if errs := v.Check(changed, e); len(errs) != 1 || errs[0].Field != "message" {
		t.Errorf("changes: %v", errs)
	}
}

func TestSecretStringData(t *testing.T) {
	s := created(t, kindOf(t, "secrets"), `{data: {a: eA==}, stringData: {a: new, b: z}}`).(*corev1.Secret)
	if s.StringData != nil || string(s.Data["a"]) != "new" || string(s.Data["b"]) != "z" || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("%+v", s)
	}
}

// TestServiceDefaults holds what a Service gets before allocation.
func TestServiceDefaults(t *testing.T) {
	s := created(t, kindOf(t, "services"), `{spec: {type: LoadBalancer, sessionAffinity: ClientIP, ports: [{port: 80}, {port: 81, targetPort: http}]}}`).(*corev1.Service)
	p := s.Spec.Ports
	if p[0].TargetPort.IntValue() != 80 || p[1].TargetPort.StrVal != "http" || p[0].Protocol != corev1.ProtocolTCP ||
		*s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds != 10800 || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyCluster ||
		*s.Spec.InternalTrafficPolicy != corev1.ServiceInternalTrafficPolicyCluster || !*s.Spec.AllocateLoadBalancerNodePorts {
		t.Errorf("%+v", s.Spec)
	}
}

func TestLimitRangeDefaults(t *testing.T) {
	l := created(t, kindOf(t, "limitranges"), `{spec: {limits: [{type: Container, max: {cpu: 1}, min: {memory: 1Mi}}]}}`).(*corev1.LimitRange)
	item := l.Spec.Limits[0]
	if item.Default.Cpu().String() != "1" || item.DefaultRequest.Cpu().String() != "1" || item.DefaultRequest.Memory().String() != "1Mi" {
		t.Errorf("%+v", item)
	}
}

// TestSelectableFields holds the values that field selectors see.
func TestSelectableFields(t *testing.T) {
	for _, tc := range []struct{ resource, manifest, field, want string }{
		{"pods", `{spec: {nodeName: node1}}`, "spec.nodeName", "node1"},
		{"pods", `{spec: {hostNetwork: true}}`, "spec.hostNetwork", "true"},
		{"pods", `{status: {podIP: 1.2.3.4}}`, "status.podIP", "1.2.3.4"},
		{"nodes", `{spec: {unschedulable: true}}`, "spec.unschedulable", "true"},
		{"namespaces", `{status: {phase: Active}}`, "status.phase", "Active"},
		{"secrets", `{type: x}`, "type", "x"},
		{"services", `{spec: {clusterIP: None}}`, "spec.clusterIP", "None"},
		{"replicationcontrollers", `{status: {replicas: 3}}`, "status.replicas", "3"},
		{"events", `{reportingComponent: c}`, "source", "c"},
		{"events", `{reportingComponent: c}`, "reportingController", "c"},
		{"events", `{involvedObject: {name: pod1}}`, "regarding.name", "pod1"},
		{"events", `{involvedObject: {uid: u}}`, "involvedObject.uid", "u"},
	} {
		k := kindOf(t, tc.resource)
		if got := k.Fields(parse(t, k, tc.manifest))[tc.field]; got != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.resource, tc.field, got, tc.want)
		}
	}
}
