package core

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
)

func kindOf(t *testing.T, resource string) *api.Kind {
	t.Helper()
	for _, k := range Kinds(podspec.Gates{}) {
		if k.Resource == resource {
			return k
		}
	}
	t.Fatalf("no kind %s", resource)
	return nil
}

// parse reads a manifest into a new object of the kind.
func parse(t *testing.T, k *api.Kind, text string) runtime.Object {
	t.Helper()
	o := k.New()
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return o
}

// created is the object as a create would validate it.
func created(t *testing.T, k *api.Kind, text string) runtime.Object {
	o := parse(t, k, text)
	if k.Strategy.Default != nil {
		k.Strategy.Default(o)
	}
	if k.Strategy.PrepareCreate != nil {
		k.Strategy.PrepareCreate(o)
	}
	return o
}

// expect compares errors with the one wanted; a newline ends what is compared
// ("" wants none).
func expect(t *testing.T, errs field.ErrorList, want string) {
	t.Helper()
	var wants []string
	if want != "" {
		wants = strings.Split(want, " && ") // several errors
	}
	same := slices.EqualFunc(errs, wants, func(e *field.Error, want string) bool {
		return e.Error() == want || strings.HasPrefix(e.Error(), want+"\n") // a diff may follow
	})
	if !same {
		t.Errorf("got  %v\nwant %s", errs, want)
	}
}

// TestRefused has one object per constrained field that a create refuses.
func TestRefused(t *testing.T) {
	const subset = `{metadata: {name: e, namespace: nn}, subsets: [`
	const svc = `metadata: {name: s, namespace: nn}` + "\nspec: "
	const event = `{metadata: {name: e, namespace: nn}, involvedObject: {namespace: nn}, eventTime: "2026-01-01T00:00:00.000000Z", `
	for _, tc := range []struct{ resource, manifest, want string }{
		{"configmaps", `{data: {"a b": x}}`, `data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`},
		{"configmaps", `{data: {a: x}, binaryData: {a: eA==}}`, `data[a]: Invalid value: "a": duplicate of key present in binaryData`},
		{"configmaps", `{data: {a: "` + strings.Repeat("x", 1<<20+1) + `"}}`, `[]: Too long: may not be more than 1048576 bytes`},
		{"secrets", `{data: {"a b": eA==}}`, `data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`},
		{"secrets", `{stringData: {a: "` + strings.Repeat("x", 1<<20+1) + `"}}`, `data: Too long: may not be more than 1048576 bytes`},
		{"secrets", `{type: kubernetes.io/service-account-token}`, `metadata.annotations[kubernetes.io/service-account.name]: Required value`},
		{"secrets", `{type: kubernetes.io/dockerconfigjson}`, `data[.dockerconfigjson]: Required value`},
		{"secrets", `{type: kubernetes.io/dockercfg, stringData: {.dockercfg: "{"}}`, `data[.dockercfg]: Invalid value: "<secret contents redacted>": unexpected end of JSON input`},
		{"secrets", `{type: kubernetes.io/ssh-auth}`, `data[ssh-privatekey]: Required value`},
		{"secrets", `{type: kubernetes.io/tls, stringData: {tls.crt: x}}`, `data[tls.key]: Required value`},
		{"namespaces", `{metadata: {name: nn}, spec: {finalizers: [mine]}}`, `spec.finalizers: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`},

		{"services", svc + `{}`, `spec.ports: Required value`},
		{"services", svc + `{type: Odd, ports: [{port: 1}]}`, `spec.type: Unsupported value: "Odd": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},
		{"services", svc + `{ports: [{port: 0, targetPort: 1}]}`, `spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive`},
		{"services", svc + `{ports: [{port: 1, targetPort: 70000}]}`, `spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive`},
		{"services", svc + `{ports: [{port: 1, protocol: X}]}`, `spec.ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`},
		{"services", svc + `{ports: [{port: 1, name: a}, {port: 2}]}`, `spec.ports[1].name: Required value`},
		{"services", svc + `{ports: [{port: 1, name: a}, {port: 2, name: a}]}`, `spec.ports[1].name: Duplicate value: "a"`},
		{"services", svc + `{ports: [{port: 1, name: a}, {port: 1, name: b}]}`, `spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":1,"TargetPort":0,"NodePort":0}`},
		{"services", svc + `{ports: [{port: 1, nodePort: 30000}]}`, "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{"services", svc + `{type: NodePort, ports: [{port: 1, name: a, nodePort: 30000}, {port: 2, name: b, nodePort: 30000}]}`, `spec.ports[1].nodePort: Duplicate value: 30000`},
		{"services", svc + `{ports: [{port: 1, appProtocol: "a b"}]}`, `spec.ports[0].appProtocol: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`},
		{"services", svc + `{type: LoadBalancer, ports: [{port: 10250}]}`, `spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet`},
		{"services", svc + `{type: NodePort, clusterIP: None, clusterIPs: [None], ports: [{port: 1}]}`, `spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`},
		{"services", svc + `{type: ExternalName}`, `spec.externalName: Required value`},
		{"services", svc + `{type: ExternalName, externalName: "A b"}`, `spec.externalName: Invalid value: "A b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{"services", svc + `{type: ExternalName, externalName: a, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1]}`, `spec.clusterIPs: Forbidden: may not be set for ExternalName services`},
		{"services", svc + `{sessionAffinity: Odd, ports: [{port: 1}]}`, `spec.sessionAffinity: Unsupported value: "Odd": supported values: "ClientIP", "None"`},
		{"services", svc + `{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, ports: [{port: 1}]}`, `spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400`},
		{"services", svc + `{clusterIP: x, clusterIPs: [x], ports: [{port: 1}]}`, `spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		{"services", svc + `{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2], ports: [{port: 1}]}`, "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"},
		{"services", svc + `{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 10.0.0.2], ports: [{port: 1}]}`, `spec.clusterIPs: Invalid value: ["10.0.0.1","10.0.0.2"]: may specify no more than one IP for each IP family`},
		{"services", svc + `{ipFamilies: [IPv5], ports: [{port: 1}]}`, `spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"`},
		{"services", svc + `{ipFamilyPolicy: Odd, ports: [{port: 1}]}`, `spec.ipFamilyPolicy: Unsupported value: "Odd": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"`},
		{"services", svc + `{externalIPs: [127.0.0.1], ports: [{port: 1}]}`, `spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`},
		{"services", svc + `{loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 1}]}`, "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"services", svc + `{loadBalancerClass: a/b, ports: [{port: 1}]}`, "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"services", svc + `{allocateLoadBalancerNodePorts: true, ports: [{port: 1}]}`, "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"services", svc + `{externalTrafficPolicy: Local, ports: [{port: 1}]}`, `spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`},
		{"services", svc + `{type: NodePort, externalTrafficPolicy: Odd, ports: [{port: 1}]}`, `spec.externalTrafficPolicy: Unsupported value: "Odd": supported values: "Cluster", "Local"`},
		{"services", svc + `{internalTrafficPolicy: Odd, ports: [{port: 1}]}`, `spec.internalTrafficPolicy: Unsupported value: "Odd": supported values: "Cluster", "Local"`},
		{"services", svc + `{healthCheckNodePort: 30000, ports: [{port: 1}]}`, "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"},
		{"services", svc + `{trafficDistribution: Odd, ports: [{port: 1}]}`, `spec.trafficDistribution: Unsupported value: "Odd": supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`},
		{"services", svc + `{selector: {a: "-"}, ports: [{port: 1}]}`, `spec.selector: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`},

		{"endpoints", subset + `{ports: [{port: 1}]}]}`, "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"},
		{"endpoints", subset + `{addresses: [{ip: x}]}]}`, `subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff) && subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address`},
		{"endpoints", subset + `{addresses: [{ip: 169.254.1.1}]}]}`, `subsets[0].addresses[0].ip: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`},
		{"endpoints", subset + `{addresses: [{ip: 1.2.3.4}], ports: [{port: 0}]}]}`, `subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive`},
		{"endpoints", subset + `{addresses: [{ip: 1.2.3.4}], ports: [{port: 1, protocol: X}]}]}`, `subsets[0].ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`},

		{"nodes", `{spec: {taints: [{key: a}]}}`, `metadata.taints[0].effect: Required value`},
		{"nodes", `{spec: {taints: [{key: a, effect: Odd}]}}`, `metadata.taints[0].effect: Unsupported value: "Odd": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`},
		{"nodes", `{spec: {taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule}]}}`, `metadata.taints[1]: Duplicate value: {"Key":"a","Value":"","Effect":"NoSchedule","TimeAdded":null}: taints must be unique by key and effect pair`},
		{"nodes", `{spec: {podCIDRs: [x]}}`, `spec.podCIDRs[0]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`},
		{"nodes", `{spec: {podCIDRs: [10.0.0.0/24, 10.0.1.0/24]}}`, `spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one CIDR for each IP family`},
		{"nodes", `{status: {capacity: {cpu: -1}, allocatable: {}}}`, `status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0`},

		{"events", `{metadata: {name: e, namespace: nn}, involvedObject: {namespace: m}}`, `involvedObject.namespace: Invalid value: "m": does not match event.namespace`},
		{"events", event + `reportingComponent: c, reportingInstance: i, reason: r}`, `action: Required value`},
		{"events", event + `reportingComponent: c, reportingInstance: i, reason: r, action: a, message: ` + strings.Repeat("x", 1025) + `}`, `message: Invalid value: "": can have at most 1024 characters`},

		{"resourcequotas", `{spec: {hard: {storage: 1}}}`, `spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota`},
		{"resourcequotas", `{spec: {hard: {pods: -1}}}`, `spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0`},
		{"resourcequotas", `{spec: {hard: {services: 500m}}}`, `spec.hard[services]: Invalid value: "500m": must be an integer`},
		{"resourcequotas", `{spec: {scopes: [Odd]}}`, `spec.scopes: Invalid value: ["Odd"]: unsupported scope`},
		{"resourcequotas", `{spec: {scopes: [BestEffort, NotBestEffort]}}`, `spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes`},
		{"resourcequotas", `{spec: {hard: {cpu: 1}, scopes: [BestEffort]}}`, `spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource`},
		{"resourcequotas", `{spec: {hard: {services: 1, example.com/x: 1}, scopes: [NotTerminating]}}`, `spec.scopes: Invalid value: ["NotTerminating"]: unsupported scope applied to resource`},
		{"resourcequotas", `{spec: {hard: {requests.ephemeral-storage: 1, pods: 1}, scopes: [PriorityClass]}}`, `spec.scopes: Invalid value: ["PriorityClass"]: unsupported scope applied to resource`},
		{"resourcequotas", `{spec: {hard: {pods: 1, persistentvolumeclaims: 1}, scopes: [VolumeAttributesClass]}}`, `spec.scopes: Invalid value: ["VolumeAttributesClass"]: unsupported scope applied to resource`},
		{"resourcequotas", `{spec: {hard: {secrets: 1}, scopeSelector: {matchExpressions: [{scopeName: Terminating, operator: Exists}]}}}`, `spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"Terminating","Operator":"Exists","Values":null}]}: unsupported scope applied to resource`},
		{"resourcequotas", `{spec: {scopeSelector: {matchExpressions: [{scopeName: BestEffort, operator: Exists}, {scopeName: NotBestEffort, operator: Exists}]}}}`, `spec.scopeSelector.matchExpressions: Invalid value: null: conflicting scopes`},
		{"resourcequotas", `{spec: {scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}]}}}`, "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"},
		{"limitranges", `{spec: {limits: [{type: Odd}]}}`, `spec.limits[0].type: Invalid value: "Odd": must be a standard limit type or fully qualified`},
		{"limitranges", `{spec: {limits: [{type: Pod}, {type: Pod}]}}`, `spec.limits[1].type: Duplicate value: "Pod"`},
		{"limitranges", `{spec: {limits: [{type: Pod, default: {cpu: 1}}]}}`, "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"},
		{"limitranges", `{spec: {limits: [{type: Pod, min: {cpu: 2}, max: {cpu: 1}}]}}`, `spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1`},
		{"limitranges", `{spec: {limits: [{type: Pod, maxLimitRequestRatio: {cpu: 500m}}]}}`, `spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1`},
		{"limitranges", `{spec: {limits: [{type: PersistentVolumeClaim}]}}`, `spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided`},

		{"persistentvolumes", `{spec: {capacity: {storage: 1Gi}, hostPath: {path: /x}}}`, `spec.accessModes: Required value`},
		{"persistentvolumes", `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 0}, hostPath: {path: /x}}}`, `spec.capacity[storage]: Invalid value: "0": must be greater than zero`},
		{"persistentvolumes", `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}}}`, `spec: Required value: must specify a volume type`},
		{"persistentvolumes", `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}, nfs: {server: s, path: /x}}}`, `spec.nfs: Forbidden: may not specify more than 1 volume type`},
		{"persistentvolumes", `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, local: {path: /x}}}`, `spec.nodeAffinity: Required value: Local volume requires node affinity`},
		{"persistentvolumes", `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, csi: {driver: d}}}`, `spec.csi.volumeHandle: Required value`},
		{"persistentvolumes", `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}, persistentVolumeReclaimPolicy: Odd}}`, `spec.persistentVolumeReclaimPolicy: Unsupported value: "Odd": supported values: "Delete", "Recycle", "Retain"`},
		{"persistentvolumes", `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /}, persistentVolumeReclaimPolicy: Recycle}}`, `spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'`},
		{"persistentvolumeclaims", `{spec: {resources: {requests: {storage: 1Gi}}}}`, `spec.accessModes: Required value: at least 1 access mode is required`},

		{"replicationcontrollers", `{spec: {selector: {a: b}}}`, `spec.template: Required value`},
		{"replicationcontrollers", `{spec: {replicas: -1, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, `spec.replicas: Invalid value: -1: must be greater than or equal to 0`},
		{"replicationcontrollers", `{spec: {selector: {a: c}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"},
		{"podtemplates", `{template: {spec: {}}}`, `template.spec.containers: Required value`},
		{"bindings", `{target: {kind: Pod, name: nn}}`, `target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"`},
		{"bindings", `{target: {kind: Node}}`, `target.name: Required value`},
		{"pods", `{metadata: {name: p, annotations: {kubernetes.io/config.mirror: x}}, spec: {containers: [{name: c, image: i}]}}`, `metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set`},
		{"pods", `{metadata: {name: p}, spec: {containers: [{name: c, image: i}], ephemeralContainers: [{name: e, image: i}]}}`, `spec.ephemeralContainers: Forbidden: cannot be set on create`},
	} {
		name := tc.want
		if len(name) > 60 {
			name = name[:60]
		}
		t.Run(tc.resource+" "+name, func(t *testing.T) {
			k := kindOf(t, tc.resource)
			expect(t, k.Strategy.Validate(created(t, k, tc.manifest)), tc.want)
		})
	}
}

// TestAccepted has the ordinary objects that no check may be in the way of.
func TestAccepted(t *testing.T) {
	for _, tc := range []struct{ resource, manifest string }{
		{"configmaps", `{data: {a.b: x}, binaryData: {c: eA==}}`},
		{"secrets", `{type: kubernetes.io/basic-auth, stringData: {username: u}}`},
		{"namespaces", `{metadata: {name: nn}}`},
		{"services", `{spec: {ports: [{port: 80}], selector: {a: b}}}`},
		{"services", `{spec: {clusterIP: None, clusterIPs: [None]}}`},
		{"services", `{spec: {type: LoadBalancer, ports: [{port: 53, name: t}, {port: 53, name: u, protocol: UDP}], loadBalancerSourceRanges: [10.0.0.0/8]}}`},
		{"services", `{spec: {type: ExternalName, externalName: example.com.}}`},
		{"services", `{spec: {sessionAffinity: ClientIP, ports: [{port: 80, targetPort: http}]}}`},
		{"endpoints", `{subsets: [{addresses: [{ip: 1.2.3.4}], ports: [{port: 80}]}]}`},
		{"nodes", `{spec: {podCIDR: 10.0.0.0/24, taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoExecute}]}, status: {capacity: {cpu: 2, memory: 1Gi, pods: 110}}}`},
		{"events", `{metadata: {name: e, namespace: nn}, involvedObject: {kind: Pod, namespace: nn, name: p}, reason: R, message: m}`},
		{"events", `{metadata: {name: e, namespace: default}, involvedObject: {kind: Node, name: p}}`},
		{"resourcequotas", `{spec: {hard: {pods: 10, requests.cpu: 1, count/deployments.apps: 2, requests.nvidia.com/gpu: 1, gold.storageclass.storage.k8s.io/requests.storage: 1Gi}, scopes: [NotTerminating]}}`},
		{"limitranges", `{spec: {limits: [{type: Container, min: {cpu: 100m}, max: {cpu: 1}, default: {cpu: 500m}}]}}`},
		{"persistentvolumes", `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, csi: {driver: d.io, volumeHandle: h}}}`},
		{"persistentvolumeclaims", `{spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`},
		{"replicationcontrollers", `{spec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
		{"pods", `{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}`},
	} {
		k := kindOf(t, tc.resource)
		if k.Strategy.Validate == nil {
			continue
		}
		if errs := k.Strategy.Validate(created(t, k, tc.manifest)); len(errs) > 0 {
			t.Errorf("%s %s: %v", tc.resource, tc.manifest, errs)
		}
	}
}
