package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// check runs the write of now over old through a strategy and returns the
// object as it would be stored, with the check's errors.
func checkErrors(t *testing.T, resource, sub, old, now, want string) runtime.Object {
	t.Helper()
	k := kindOf(t, resource)
	before, obj := parse(t, k, old), parse(t, k, now)
	st := &k.Strategy
	if sub != "" {
		st = k.Subresources[sub].Object
	}
	for _, o := range []runtime.Object{before, obj} {
		if k.Strategy.Default != nil {
			k.Strategy.Default(o)
		}
	}
	if st.PrepareUpdate != nil {
		st.PrepareUpdate(obj, before)
	}
	if st.ValidateUpdate != nil {
		expect(t, st.ValidateUpdate(obj, before), want)
	} else if want != "" {
		t.Errorf("nothing checks %s/%s", resource, sub)
	}
	return obj
}

// TestUpdates has what an update may and may not change.
func TestUpdates(t *testing.T) {
	const only = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
	pod := func(spec string) string {
		return `{metadata: {name: p}, spec: {containers: [{name: c, image: "i:1"}]` + spec + `}}`
	}
	pv := func(spec string) string {
		return `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, ` + spec + `}}`
	}
	claim := func(size, status string) string {
		return `{spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: ` + size + `}}}, status: {` + status + `}}`
	}
	class := func(name, status string) string {
		return `{spec: {accessModes: [ReadWriteOnce], volumeAttributesClassName: ` + name + `, resources: {requests: {storage: 1Gi}}}, status: {` + status + `}}`
	}
	csi := func(more string) string { return `csi: {driver: d, volumeHandle: h` + more + `}` }
	on := func(label string) string {
		return `nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: ` + label + `, operator: Exists}]}]}}`
	}
	const bound = `phase: Bound, capacity: {storage: 1Gi}`
	for name, tc := range map[string]struct{ resource, sub, old, now, want string }{
		"pod image":       {"pods", "", pod(``), `{metadata: {name: p}, spec: {containers: [{name: c, image: "i:2"}]}}`, ``},
		"pod no image":    {"pods", "", pod(``), `{metadata: {name: p}, spec: {containers: [{name: c, imagePullPolicy: IfNotPresent}]}}`, `spec.containers[0].image: Required value && spec.containers[0].image: Required value`},
		"pod hostname":    {"pods", "", pod(``), pod(`, hostname: h`), only},
		"pod containers":  {"pods", "", pod(``), `{metadata: {name: p}, spec: {containers: [{name: c, image: "i:1"}, {name: d, image: i}]}}`, `spec.containers: Forbidden: pod updates may not add or remove containers`},
		"pod toleration":  {"pods", "", pod(``), pod(`, tolerations: [{key: a, operator: Exists}]`), ``},
		"pod intolerance": {"pods", "", pod(`, tolerations: [{key: a, operator: Exists}]`), pod(``), `spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds`},
		"pod deadline":    {"pods", "", pod(`, activeDeadlineSeconds: 5`), pod(`, activeDeadlineSeconds: 4`), ``},
		"pod longer":      {"pods", "", pod(`, activeDeadlineSeconds: 5`), pod(`, activeDeadlineSeconds: 6`), `spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value`},
		"pod endless":     {"pods", "", pod(`, activeDeadlineSeconds: 5`), pod(``), `spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value`},
		"pod grace":       {"pods", "", pod(`, terminationGracePeriodSeconds: -1`), pod(`, terminationGracePeriodSeconds: 1`), ``},
		"pod same grace":  {"pods", "", pod(`, terminationGracePeriodSeconds: 1`), pod(`, terminationGracePeriodSeconds: -1`), ``},
		"pod less grace":  {"pods", "", pod(`, terminationGracePeriodSeconds: 5`), pod(`, terminationGracePeriodSeconds: -1`), only},
		"pod other grace": {"pods", "", pod(`, terminationGracePeriodSeconds: 5`), pod(`, terminationGracePeriodSeconds: 1`), only},
		"pod ungated":     {"pods", "", pod(`, schedulingGates: [{name: a}]`), pod(``), ``},
		"pod gated":       {"pods", "", pod(``), pod(`, schedulingGates: [{name: a}]`), `spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a'`},
		"pod narrowed":    {"pods", "", pod(`, schedulingGates: [{name: a}]`), pod(`, schedulingGates: [{name: a}], nodeSelector: {a: b}`), ``},
		"pod not gated":   {"pods", "", pod(``), pod(`, nodeSelector: {a: b}`), only},
		"pod widened": {"pods", "", pod(`, schedulingGates: [{name: a}], nodeSelector: {a: b}`), pod(`, schedulingGates: [{name: a}]`),
			`spec.nodeSelector: Invalid value: null: only additions are allowed`},
		"mirror": {"pods", "", pod(``), `{metadata: {name: p, annotations: {kubernetes.io/config.mirror: x}}, spec: {containers: [{name: c, image: "i:1"}]}}`,
			`metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation`},
		"pod status ips":    {"pods", "status", pod(``), `{status: {podIP: 1.2.3.4, podIPs: [{ip: 1.2.3.4}, {ip: 1.2.3.5}]}}`, `status.podIPs: Invalid value: [{"ip":"1.2.3.4"},{"ip":"1.2.3.5"}]: may specify no more than one IP for each IP family`},
		"pod status back":   {"pods", "status", `{spec: {restartPolicy: Never}, status: {containerStatuses: [{name: c, state: {terminated: {exitCode: 0}}}]}}`, `{status: {containerStatuses: [{name: c, state: {running: {}}}]}}`, `status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state`},
		"pod status anew":   {"pods", "status", `{spec: {restartPolicy: Never, containers: [{name: d, image: i, restartPolicy: Never, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [1]}}]}]}, status: {containerStatuses: [{name: c, state: {terminated: {exitCode: 0}}}]}}`, `{status: {containerStatuses: [{name: c, state: {running: {}}}]}}`, ``},
		"pod generation":    {"pods", "status", pod(``), pod(`}, status: {observedGeneration: -1`), `status.observedGeneration: Invalid value: -1: must be a non-negative integer`},
		"pod nominated":     {"pods", "status", `{spec: {nodeName: n}, status: {}}`, `{spec: {nodeName: n}, status: {nominatedNodeName: m}}`, `status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node`},
		"pod was nominated": {"pods", "status", `{spec: {nodeName: n}, status: {nominatedNodeName: m}}`, `{spec: {nodeName: n}, status: {nominatedNodeName: m}}`, ``},
		"pod to nominate":   {"pods", "status", `{status: {}}`, `{status: {nominatedNodeName: m}}`, ``},
		"pod qos":           {"pods", "status", `{status: {qosClass: Burstable}}`, `{status: {qosClass: Guaranteed}}`, `status.qosClass: Invalid value: "Guaranteed": field is immutable`},
		"debug":             {"pods", "ephemeralcontainers", pod(``), pod(`, ephemeralContainers: [{name: d, image: i}]`), ``},
		"debug gone":        {"pods", "ephemeralcontainers", pod(`, ephemeralContainers: [{name: d, image: i}]`), pod(``), `spec.ephemeralContainers: Forbidden: existing ephemeral containers "d" may not be removed`},
		"debug changed":     {"pods", "ephemeralcontainers", pod(`, ephemeralContainers: [{name: d, image: i}]`), pod(`, ephemeralContainers: [{name: d, image: j}]`), `spec.ephemeralContainers: Forbidden: existing ephemeral containers "d" may not be changed`},
		"resize init": {"pods", "resize", `{spec: {containers: [{name: c, image: i}], initContainers: [{name: i, image: i, resources: {requests: {cpu: 1}}}]}}`,
			`{spec: {containers: [{name: c, image: i}], initContainers: [{name: i, image: i, resources: {requests: {cpu: 2}}}]}}`, ``},
		"resize qos": {"pods", "resize", pod(``), `{spec: {containers: [{name: c, resources: {requests: {cpu: 1}}}]}}`, `spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing`},

		"resize added":   {"pods", "resize", `{spec: {containers: [{name: c, image: i}]}}`, `{spec: {containers: [{name: c, image: i}, {name: d, image: i}]}}`, `spec.containers: Forbidden: containers may not be added or removed on resize`},
		"resize renamed": {"pods", "resize", `{spec: {containers: [{name: c, image: i}]}}`, `{spec: {containers: [{name: d, image: i}]}}`, `spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize`},
		"resize of disk": {"pods", "resize", `{spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 1, ephemeral-storage: 1}}}]}}`,
			`{spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 1, ephemeral-storage: 2}}}]}}`, `spec: Forbidden: only cpu and memory resources are mutable`},
		"resize less": {"pods", "resize", `{spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 1, memory: 1}}}]}}`,
			`{spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 1}}}]}}`, `spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed`},
		"resize policy": {"pods", "resize", `{spec: {containers: [{name: c, image: i}]}}`,
			`{spec: {containers: [{name: c, image: i, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}]}}`, `spec: Forbidden: only cpu and memory resources are mutable`},
		"resize init disk": {"pods", "resize", `{spec: {containers: [{name: c, image: i}], initContainers: [{name: i, image: i, resources: {requests: {cpu: 1}}}]}}`,
			`{spec: {containers: [{name: c, image: i}], initContainers: [{name: i, image: i, resources: {requests: {cpu: 1, ephemeral-storage: 1}}}]}}`, `spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable`},
		"resize pod less": {"pods", "resize", `{spec: {resources: {requests: {cpu: 1, memory: 1}}, containers: [{name: c, image: i}]}}`,
			`{spec: {resources: {requests: {memory: 1}}, containers: [{name: c, image: i}]}}`, `spec.resources.requests: Forbidden: pod-level resource requests cannot be removed`},
		"resize pod none": {"pods", "resize", `{spec: {resources: {requests: {cpu: 1, memory: 1}}, containers: [{name: c, image: i, resources: {requests: {cpu: 1}}}]}}`,
			`{spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 1}}}]}}`, `spec.resources: Forbidden: pod-level resources cannot be removed`},

		"service address":       {"services", "", `{spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 1}]}}`, `{spec: {clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ports: [{port: 1}]}}`, `spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set`},
		"service lb class":      {"services", "", `{spec: {type: LoadBalancer, loadBalancerClass: a/b, ports: [{port: 1}]}}`, `{spec: {type: LoadBalancer, loadBalancerClass: a/c, ports: [{port: 1}]}}`, `spec.loadBalancerClass: Invalid value: "a/c": may not change once set`},
		"service type":          {"services", "", `{spec: {type: LoadBalancer, ports: [{port: 1}]}}`, `{spec: {type: ClusterIP, externalTrafficPolicy: Cluster, allocateLoadBalancerNodePorts: true, ports: [{port: 1}]}}`, ``},
		"service status":        {"services", "status", `{}`, `{status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}}`, "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"},
		"service status ip":     {"services", "status", `{spec: {type: LoadBalancer}}`, `{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: x, ipMode: VIP}]}}}`, `status.loadBalancer.ingress[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		"configmap":             {"configmaps", "", `{immutable: true, data: {a: b}}`, `{immutable: true, data: {a: c}}`, "data: Forbidden: field is immutable when `immutable` is set"},
		"configmap mark":        {"configmaps", "", `{immutable: true}`, `{}`, "immutable: Forbidden: field is immutable when `immutable` is set"},
		"secret":                {"secrets", "", `{immutable: true}`, `{immutable: true, stringData: {a: b}}`, "data: Forbidden: field is immutable when `immutable` is set"},
		"secret type":           {"secrets", "", `{type: a}`, `{type: b}`, `type: Invalid value: "b": field is immutable`},
		"namespace phase":       {"namespaces", "status", `{metadata: {name: nn}}`, `{metadata: {name: nn}, status: {phase: Terminating}}`, "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"},
		"node provider":         {"nodes", "", `{spec: {providerID: a}}`, `{spec: {providerID: b}}`, `spec.providerID: Forbidden: node updates may not change providerID except from "" to valid`},
		"node cidr":             {"nodes", "", `{spec: {podCIDR: 10.0.0.0/24}}`, `{spec: {podCIDR: 10.0.1.0/24}}`, `spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`},
		"node first cidr":       {"nodes", "", `{}`, `{spec: {podCIDR: 10.0.1.0/24, unschedulable: true}}`, ``},
		"quota scopes":          {"resourcequotas", "", `{spec: {scopes: [BestEffort]}}`, `{}`, `spec.scopes: Invalid value: null: field is immutable`},
		"volume source":         {"persistentvolumes", "", pv(`hostPath: {path: /x}`), pv(`hostPath: {path: /y}`), `spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation`},
		"volume mode":           {"persistentvolumes", "", pv(`hostPath: {path: /x}`), pv(`hostPath: {path: /x}, volumeMode: Block`), `volumeMode: Invalid value: "Block": field is immutable`},
		"volume secret":         {"persistentvolumes", "", pv(csi(``)), pv(csi(`, controllerExpandSecretRef: {name: a, namespace: b}`)), ``},
		"volume secret changed": {"persistentvolumes", "", pv(csi(`, controllerExpandSecretRef: {name: a, namespace: b}`)), pv(csi(`, controllerExpandSecretRef: {name: c, namespace: b}`)), `spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation`},
		"volume other secret":   {"persistentvolumes", "", pv(csi(``)), pv(csi(`, nodePublishSecretRef: {name: a, namespace: b}`)), `spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation`},
		"volume beta label":     {"persistentvolumes", "", pv(`hostPath: {path: /x}, ` + on("failure-domain.beta.kubernetes.io/zone")), pv(`hostPath: {path: /x}, ` + on("topology.kubernetes.io/zone")), ``},
		"volume wrong label":    {"persistentvolumes", "", pv(`hostPath: {path: /x}, ` + on("failure-domain.beta.kubernetes.io/zone")), pv(`hostPath: {path: /x}, ` + on("topology.kubernetes.io/region")), `nodeAffinity: Invalid value: {"Required":{"NodeSelectorTerms":[{"MatchExpressions":[{"Key":"topology.kubernetes.io/region","Operator":"Exists","Values":null}],"MatchFields":null}]}}: field is immutable, except for updating from beta label to GA`},
		"volume class gone":     {"persistentvolumes", "", pv(csi(``) + `, volumeAttributesClassName: a`), pv(csi(``)), `spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden`},
		"claim class":           {"persistentvolumeclaims", "", class(`x`, bound), class(`y`, ``), ``},
		"claim class unbound":   {"persistentvolumeclaims", "", class(`x`, ``), class(`y`, ``), `spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims`},
		"claim class gone":      {"persistentvolumeclaims", "", class(`x`, bound+`, currentVolumeAttributesClassName: x`), claim("1Gi", ``), `spec.volumeAttributesClassName: Forbidden: update to nil is forbidden when status.currentVolumeAttributesClassName is not nil`},
		"claim status":          {"persistentvolumeclaims", "status", claim("1Gi", ``), claim("1Gi", `allocatedResources: {cpu: 1}`), `status.allocatedResources: Unsupported value: "cpu": supported values: "storage"`},
		"claim status less":     {"persistentvolumeclaims", "status", claim("1Gi", ``), claim("1Gi", `allocatedResources: {storage: -1}`), `status.allocatedResources[storage]: Invalid value: -1: must be a valid resource quantity`},
		"claim status resizing": {"persistentvolumeclaims", "status", claim("1Gi", ``), claim("1Gi", `allocatedResourceStatuses: {storage: Some}`), `status.allocatedResourceStatuses: Unsupported value: "storage": supported values: "ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"`},
		"endpoints as before":   {"endpoints", "", `{subsets: [{addresses: [{ip: 01.2.3.4}], ports: [{port: 1}]}]}`, `{subsets: [{addresses: [{ip: 01.2.3.4}], ports: [{port: 2}]}]}`, ``},
		"endpoints anew":        {"endpoints", "", `{}`, `{subsets: [{addresses: [{ip: 01.2.3.4}], ports: [{port: 2}]}]}`, `subsets[0].addresses[0].ip: Invalid value: "01.2.3.4": must not have leading 0s`},
		"devices":               {"pods", "status", pod(``), pod(`` + `}, status: {containerStatuses: [{name: c, allocatedResourcesStatus: [{name: a/b}]}]`), `status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: "a/b": must match one of the container's resource requests`},
		"devices of a claim":    {"pods", "status", pod(``), pod(`` + `}, status: {containerStatuses: [{name: c, allocatedResourcesStatus: [{name: "claim:x"}]}]`), `status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: "claim:x": must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty`},
		"user":                  {"pods", "status", pod(``), pod(`` + `}, status: {containerStatuses: [{name: c, user: {linux: {uid: -1, gid: 0}}}]`), `status.containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive`},
		"extended":              {"pods", "status", pod(``), pod(`` + `}, status: {extendedResourceClaimStatus: {resourceClaimName: a, requestMappings: [{containerName: z, requestName: r}]}`), `status.extendedResourceClaimStatus.requestMappings[0].containerName: Invalid value: "z": must match the name of an entry in spec.initContainers.name or spec.containers.name`},
		"claim bound":           {"persistentvolumeclaims", "", claim("1Gi", ``), `{spec: {volumeName: v, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, ``},
		"claim grows":           {"persistentvolumeclaims", "", claim("1Gi", bound), claim("2Gi", ``), ``},
		"claim shrinks":         {"persistentvolumeclaims", "", claim("1Gi", bound), claim("1Mi", ``), `spec.resources.requests.storage: Forbidden: field can not be less than status.capacity`},
		"claim unbound":         {"persistentvolumeclaims", "", claim("1Gi", ``), claim("2Gi", ``), `spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims`},
		"rc status":             {"replicationcontrollers", "status", `{}`, `{status: {replicas: 1, readyReplicas: 2, availableReplicas: 1}}`, `status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas`},
	} {
		t.Run(name, func(t *testing.T) { checkErrors(t, tc.resource, tc.sub, tc.old, tc.now, tc.want) })
	}
}

// TestGeneration counts changes of a pod's spec, and nothing else.
func TestGeneration(t *testing.T) {
	const old = `{metadata: {name: p, generation: 3}, spec: {containers: [{name: c, image: "i:1"}]}, status: {phase: Running}}`
	got := checkErrors(t, "pods", "", old, `{metadata: {name: p}, spec: {containers: [{name: c, image: "i:2"}]}, status: {phase: Failed}}`, "").(*corev1.Pod)
	if got.Generation != 4 || got.Status.Phase != corev1.PodRunning {
		t.Errorf("generation %d, phase %s: an update of the spec counts once and keeps the status", got.Generation, got.Status.Phase)
	}
	got = checkErrors(t, "pods", "status", old, `{metadata: {name: p}, spec: {nodeName: nn}, status: {phase: Failed}}`, "").(*corev1.Pod)
	if got.Generation != 3 || got.Status.Phase != corev1.PodFailed || got.Spec.NodeName != "" {
		t.Errorf("%+v: a status update changes nothing else", got)
	}
}

// TestNewPod holds what a create gives a pod.
func TestNewPod(t *testing.T) {
	k := kindOf(t, "pods")
	p := created(t, k, `
metadata: {name: p, labels: {app: a}}
spec:
  schedulingGates: [{name: g}]
  containers: [{name: c, image: i, resources: {limits: {cpu: 1, memory: 1Gi}}}]
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {topologyKey: k, matchLabelKeys: [app], labelSelector: {}}
status: {phase: Succeeded, podIP: 1.2.3.4}
`).(*corev1.Pod)
	if p.Generation != 1 || p.Status.Phase != corev1.PodPending || p.Status.PodIP != "" || p.Status.QOSClass != corev1.PodQOSGuaranteed {
		t.Errorf("generation %d, status %+v", p.Generation, p.Status)
	}
	if c := p.Status.Conditions; len(c) != 1 || c[0].Reason != corev1.PodReasonSchedulingGated {
		t.Errorf("conditions %+v: the pod is gated", c)
	}
	term := p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0]
	if e := term.LabelSelector.MatchExpressions; len(e) != 1 || e[0].Key != "app" || e[0].Values[0] != "a" {
		t.Errorf("selector %+v: matchLabelKeys are not merged", term.LabelSelector)
	}
	if errs := k.Strategy.Validate(p); len(errs) > 0 {
		t.Errorf("the merged keys are refused: %v", errs)
	}
}

func TestGracePeriod(t *testing.T) {
	k := kindOf(t, "pods")
	n := func(s int64) *int64 { return &s }
	for _, tc := range []struct {
		manifest string
		asked    *int64
		want     int64
	}{
		{`{spec: {nodeName: nn, terminationGracePeriodSeconds: 7}}`, nil, 7},
		{`{spec: {nodeName: nn, terminationGracePeriodSeconds: 7}}`, n(3), 3},
		{`{spec: {nodeName: nn, terminationGracePeriodSeconds: 7}}`, n(0), 0},
		{`{spec: {nodeName: nn, terminationGracePeriodSeconds: -7}}`, nil, 1},
		{`{spec: {terminationGracePeriodSeconds: 7}}`, nil, 0},
		{`{spec: {nodeName: nn, terminationGracePeriodSeconds: 7}, status: {phase: Succeeded}}`, n(9), 0},
	} {
		if got := k.Strategy.GracePeriod(parse(t, k, tc.manifest), tc.asked); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.manifest, got, tc.want)
		}
	}
}

// TestResize takes resources by container name and leaves the rest.
func TestResize(t *testing.T) {
	got := checkErrors(t, "pods", "resize",
		`{metadata: {name: p, generation: 1}, spec: {containers: [{name: a, image: i, resources: {requests: {cpu: 1}}}, {name: b, image: i}]}}`,
		`{metadata: {name: p, labels: {x: y}}, spec: {hostname: h, containers: [{name: a, image: j, resources: {requests: {cpu: 2}}}, {name: b, image: j}]}}`, "").(*corev1.Pod)
	c := got.Spec.Containers
	if len(c) != 2 || c[0].Image != "i" || c[0].Resources.Requests.Cpu().String() != "2" || got.Spec.Hostname != "" || got.Labels != nil || got.Generation != 2 {
		t.Errorf("%+v", got)
	}
}

// TestNamespaceFinalize writes the finalizers and nothing else.
func TestNamespaceFinalize(t *testing.T) {
	ns := created(t, kindOf(t, "namespaces"), `{metadata: {name: nn}}`).(*corev1.Namespace)
	if ns.Labels["kubernetes.io/metadata.name"] != "nn" || len(ns.Spec.Finalizers) != 1 || ns.Status.Phase != corev1.NamespaceActive {
		t.Errorf("new namespace %+v", ns)
	}
	const old = `{metadata: {name: nn}, spec: {finalizers: [kubernetes]}}`
	if got := checkErrors(t, "namespaces", "finalize", old, `{metadata: {name: nn}}`, "").(*corev1.Namespace); len(got.Spec.Finalizers) != 0 {
		t.Errorf("finalize kept %v", got.Spec.Finalizers)
	}
	if got := checkErrors(t, "namespaces", "", old, `{metadata: {name: nn}}`, "").(*corev1.Namespace); len(got.Spec.Finalizers) != 1 {
		t.Error("an ordinary update removed the finalizer")
	}
}

// TestScale reads and writes the replicas of a replication controller.
func TestScale(t *testing.T) {
	k := kindOf(t, "replicationcontrollers")
	p := k.Subresources["scale"].Project
	rc := parse(t, k, `{metadata: {name: r, namespace: nn, uid: u, resourceVersion: "5"}, spec: {replicas: 2, selector: {a: b}}, status: {replicas: 1}}`)
	scale, err := p.Get(rc)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"metadata":{"name":"r","namespace":"nn","uid":"u","resourceVersion":"5"},"spec":{"replicas":2},"status":{"replicas":1,"selector":"a=b"}}`
	if got := asJSON(t, scale); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	body := p.New()
	if errs := p.Validate(body); len(errs) != 0 {
		t.Error(errs)
	}
	if err := p.Set(rc, body); err != nil || *rc.(*corev1.ReplicationController).Spec.Replicas != 0 {
		t.Errorf("scale to 0: %v %v", err, rc)
	}
}
