package podspec

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func ptr[T any](v T) *T { return &v }

// basePod is a valid, defaulted pod with a container, a sidecar and volumes
// to mount.
func basePod() *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: map[string]string{"app": "a"}},
		Spec: corev1.PodSpec{
			Containers:     []corev1.Container{{Name: "c", Image: "img:1"}},
			InitContainers: []corev1.Container{{Name: "i", Image: "img:1"}},
			Volumes: []corev1.Volume{
				{Name: "data"},
				{Name: "claim", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "x"}}},
			},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr("g")}},
		},
	}
	DefaultPod(p)
	return p
}

func list(kv ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return l
}

type badCase struct {
	name   string
	change func(p *corev1.Pod, c *corev1.Container)
	want   string // one error, as text
}

// run defaults and validates each changed pod and looks for the one error.
func runBad(t *testing.T, cases []badCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			p := basePod()
			tc.change(p, &p.Spec.Containers[0])
			errs := Validate(&p.Spec, &p.ObjectMeta, field.NewPath("spec"), Options{})
			var got []string
			for _, e := range errs {
				got = append(got, e.Error())
			}
			if len(got) != 1 || got[0] != tc.want {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), tc.want)
			}
		})
	}
}

func TestBaseIsValid(t *testing.T) {
	p := basePod()
	if errs := Validate(&p.Spec, &p.ObjectMeta, field.NewPath("spec"), Options{}); len(errs) > 0 {
		t.Fatal(errs)
	}
}

const (
	labelText     = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
	subdomainText = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
	portText      = "must be between 1 and 65535, inclusive"
	idText        = "must be between 0 and 2147483647, inclusive"
)

func TestSpecFields(t *testing.T) {
	runBad(t, []badCase{
		{"no containers", func(p *corev1.Pod, c *corev1.Container) { p.Spec.Containers = nil }, `spec.containers: Required value`},
		{"restart policy", func(p *corev1.Pod, c *corev1.Container) { p.Spec.RestartPolicy = "Sometimes" },
			`spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`},
		{"dns policy", func(p *corev1.Pod, c *corev1.Container) { p.Spec.DNSPolicy = "x" },
			`spec.dnsPolicy: Unsupported value: "x": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`},
		{"dns none", func(p *corev1.Pod, c *corev1.Container) { p.Spec.DNSPolicy = "None" },
			"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"},
		{"dns none without servers", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.DNSPolicy, p.Spec.DNSConfig = "None", &corev1.PodDNSConfig{}
		}, "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"},
		{"nameservers", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"}}
		}, `spec.dnsConfig.nameservers: Invalid value: ["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4"]: must not have more than 3 nameservers`},
		{"nameserver", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"dns"}}
		}, `spec.dnsConfig.nameservers[0]: Invalid value: "dns": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		{"dns option", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{}}}
		}, `spec.dnsConfig.options[0]: Required value: must not be empty`},
		{"node selector", func(p *corev1.Pod, c *corev1.Container) { p.Spec.NodeSelector = map[string]string{"a": "/"} },
			`spec.nodeSelector: Invalid value: "/": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`},
		{"service account", func(p *corev1.Pod, c *corev1.Container) { p.Spec.ServiceAccountName = "A" }, `spec.serviceAccountName: Invalid value: "A": ` + subdomainText},
		{"node name", func(p *corev1.Pod, c *corev1.Container) { p.Spec.NodeName = "A" }, `spec.nodeName: Invalid value: "A": ` + subdomainText},
		{"hostname", func(p *corev1.Pod, c *corev1.Container) { p.Spec.Hostname = "a.b" }, `spec.hostname: Invalid value: "a.b": must not contain dots`},
		{"subdomain", func(p *corev1.Pod, c *corev1.Container) { p.Spec.Subdomain = "A" }, `spec.subdomain: Invalid value: "A": ` + labelText},
		{"priority class", func(p *corev1.Pod, c *corev1.Container) { p.Spec.PriorityClassName = "A" }, `spec.priorityClassName: Invalid value: "A": ` + subdomainText},
		{"runtime class", func(p *corev1.Pod, c *corev1.Container) { p.Spec.RuntimeClassName = ptr("A") }, `spec.runtimeClassName: Invalid value: "A": ` + subdomainText},
		{"hostname override", func(p *corev1.Pod, c *corev1.Container) { p.Spec.HostnameOverride = ptr("A") }, `spec.hostnameOverride: Invalid value: "A": ` + subdomainText},
		{"deadline", func(p *corev1.Pod, c *corev1.Container) { p.Spec.ActiveDeadlineSeconds = ptr(int64(0)) },
			`spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive`},
		{"preemption", func(p *corev1.Pod, c *corev1.Container) { p.Spec.PreemptionPolicy = ptr(corev1.PreemptionPolicy("x")) },
			`spec.preemptionPolicy: Unsupported value: "x": supported values: "PreemptLowerPriority", "Never"`},
		{"overhead", func(p *corev1.Pod, c *corev1.Container) { p.Spec.Overhead = list("cpu", "-1") },
			`spec.overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
		{"host alias ip", func(p *corev1.Pod, c *corev1.Container) { p.Spec.HostAliases = []corev1.HostAlias{{IP: "x"}} },
			`spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		{"host alias name", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"A"}}}
		}, `spec.hostAliases[0].hostnames[0]: Invalid value: "A": ` + subdomainText},
		{"readiness gate", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "-"}}
		}, `spec.readinessGates[0].conditionType: Invalid value: "-": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`},
		{"scheduling gates", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}, {Name: "a"}}
		}, `spec.schedulingGates[1]: Duplicate value: "a"`},
		{"gated on a node", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.SchedulingGates, p.Spec.NodeName = []corev1.PodSchedulingGate{{Name: "a"}}, "n"
		}, `spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared`},
		{"os", func(p *corev1.Pod, c *corev1.Container) { p.Spec.OS = &corev1.PodOS{Name: "plan9"} },
			`spec.os: Unsupported value: "plan9": supported values: "linux", "windows"`},
		{"windows options on linux", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.OS = &corev1.PodOS{Name: "linux"}
			p.Spec.SecurityContext.WindowsOptions = &corev1.WindowsSecurityContextOptions{}
		}, `spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod`},
		{"host pid on windows", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.OS, p.Spec.HostPID = &corev1.PodOS{Name: "windows"}, true
		}, `spec.hostPID: Forbidden: cannot be set for a windows pod`},
		{"shared processes", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.HostPID, p.Spec.ShareProcessNamespace = true, ptr(true)
		}, `spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled`},
		{"host network port", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.HostNetwork = true
			c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81, Protocol: "TCP"}}
		}, "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"},
		{"host users", func(p *corev1.Pod, c *corev1.Container) { p.Spec.HostUsers, p.Spec.HostNetwork = ptr(false), true },
			"spec.hostNetwork: Forbidden: when `hostUsers` is false"},
		{"claim name", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "", ResourceClaimName: ptr("a")}}
		}, `spec.resourceClaims[0].name: Required value`},
		{"claim pod resources", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.Resources = &corev1.ResourceRequirements{Limits: list("nvidia.com/gpu", "1")}
		}, `spec.resources.limits[nvidia.com/gpu]: Unsupported value: "nvidia.com/gpu": supported values: "cpu", "hugepages-", "memory"`},
		{"pod requests too small", func(p *corev1.Pod, c *corev1.Container) {
			c.Resources.Requests = list("cpu", "2")
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "1")}
		}, `spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2`},
	})
}

func TestContainers(t *testing.T) {
	runBad(t, []badCase{
		{"no name", func(p *corev1.Pod, c *corev1.Container) { c.Name = "" }, `spec.containers[0].name: Required value`},
		{"name", func(p *corev1.Pod, c *corev1.Container) { c.Name = "A" }, `spec.containers[0].name: Invalid value: "A": ` + labelText},
		{"duplicate", func(p *corev1.Pod, c *corev1.Container) { p.Spec.Containers = append(p.Spec.Containers, *c) }, `spec.containers[1].name: Duplicate value: "c"`},
		{"duplicate init", func(p *corev1.Pod, c *corev1.Container) { p.Spec.InitContainers[0].Name = "c" }, `spec.initContainers[0].name: Duplicate value: "c"`},
		{"no image", func(p *corev1.Pod, c *corev1.Container) { c.Image = "" }, `spec.containers[0].image: Required value`},
		{"spaced image", func(p *corev1.Pod, c *corev1.Container) { c.Image = " a" }, `spec.containers[0].image: Invalid value: " a": must not have leading or trailing whitespace`},
		{"pull policy", func(p *corev1.Pod, c *corev1.Container) { c.ImagePullPolicy = "x" },
			`spec.containers[0].imagePullPolicy: Unsupported value: "x": supported values: "Always", "IfNotPresent", "Never"`},
		{"termination message", func(p *corev1.Pod, c *corev1.Container) { c.TerminationMessagePolicy = "x" },
			`spec.containers[0].terminationMessagePolicy: Unsupported value: "x": supported values: "File", "FallbackToLogsOnError"`},
		{"no port", func(p *corev1.Pod, c *corev1.Container) { c.Ports = []corev1.ContainerPort{{Protocol: "TCP"}} }, `spec.containers[0].ports[0].containerPort: Required value`},
		{"port", func(p *corev1.Pod, c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 65536, Protocol: "TCP"}}
		}, `spec.containers[0].ports[0].containerPort: Invalid value: 65536: ` + portText},
		{"host port", func(p *corev1.Pod, c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 1, HostPort: 65536, Protocol: "TCP"}}
		}, `spec.containers[0].ports[0].hostPort: Invalid value: 65536: ` + portText},
		{"host port twice", func(p *corev1.Pod, c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 1, HostPort: 9, Protocol: "TCP"}, {ContainerPort: 2, HostPort: 9, Protocol: "TCP"}}
		}, `spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//9"`},
		{"port protocol", func(p *corev1.Pod, c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 1, Protocol: "ICMP"}}
		}, `spec.containers[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`},
		{"port name", func(p *corev1.Pod, c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{Name: "a", ContainerPort: 1, Protocol: "TCP"}, {Name: "a", ContainerPort: 2, Protocol: "TCP"}}
		}, `spec.containers[0].ports[1].name: Duplicate value: "a"`},
		{"long port name", func(p *corev1.Pod, c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{Name: "abcdefghijklmnop", ContainerPort: 1, Protocol: "TCP"}}
		}, `spec.containers[0].ports[0].name: Invalid value: "abcdefghijklmnop": must be no more than 15 characters`},
		{"init probe", func(p *corev1.Pod, c *corev1.Container) { p.Spec.InitContainers[0].LivenessProbe = &corev1.Probe{} },
			`spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always`},
		{"init lifecycle", func(p *corev1.Pod, c *corev1.Container) { p.Spec.InitContainers[0].Lifecycle = &corev1.Lifecycle{} },
			`spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always`},
		{"restart policy", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.InitContainers[0].RestartPolicy = ptr(corev1.ContainerRestartPolicy("x"))
		}, `spec.initContainers[0].restartPolicy: Unsupported value: "x": supported values: "Always", "Never", "OnFailure"`},
		{"ephemeral probe", func(p *corev1.Pod, c *corev1.Container) {
			e := corev1.EphemeralContainerCommon(*c)
			e.Name, e.StartupProbe = "e", &corev1.Probe{}
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: e}}
		}, `spec.ephemeralContainers[0].startupProbe: Forbidden: cannot be set for an Ephemeral Container`},
		{"ephemeral target", func(p *corev1.Pod, c *corev1.Container) {
			e := corev1.EphemeralContainerCommon(*c)
			e.Name = "e"
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: e, TargetContainerName: "none"}}
		}, `spec.ephemeralContainers[0].targetContainerName: Not found: "none"`},
		{"resize policy", func(p *corev1.Pod, c *corev1.Container) {
			c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "disk", RestartPolicy: corev1.NotRequired}}
		}, `spec.containers[0].resizePolicy: Unsupported value: "disk": supported values: "cpu", "memory"`},
		{"stop signal", func(p *corev1.Pod, c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{StopSignal: ptr(corev1.SIGTERM)}
		}, "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"},
	})
}

func TestProbes(t *testing.T) {
	probe := func(h corev1.ProbeHandler) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: h, TimeoutSeconds: 1, PeriodSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1}
	}
	exec := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}
	http := func(a corev1.HTTPGetAction) corev1.ProbeHandler { return corev1.ProbeHandler{HTTPGet: &a} }
	runBad(t, []badCase{
		{"no handler", func(p *corev1.Pod, c *corev1.Container) { c.LivenessProbe = probe(corev1.ProbeHandler{}) },
			`spec.containers[0].livenessProbe: Required value: must specify a handler type`},
		{"two handlers", func(p *corev1.Pod, c *corev1.Container) {
			h := exec
			h.TCPSocket = &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}
			c.LivenessProbe = probe(h)
		}, `spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type`},
		{"no command", func(p *corev1.Pod, c *corev1.Container) {
			c.LivenessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{}})
		}, `spec.containers[0].livenessProbe.exec.command: Required value`},
		{"http port", func(p *corev1.Pod, c *corev1.Container) {
			c.ReadinessProbe = probe(http(corev1.HTTPGetAction{Path: "/", Scheme: "HTTP"}))
		}, `spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: ` + portText},
		{"http scheme", func(p *corev1.Pod, c *corev1.Container) {
			c.ReadinessProbe = probe(http(corev1.HTTPGetAction{Path: "/", Scheme: "FTP", Port: intstr.FromInt32(1)}))
		}, `spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"`},
		{"grpc port", func(p *corev1.Pod, c *corev1.Container) {
			c.StartupProbe = probe(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{}})
		}, `spec.containers[0].startupProbe.grpc.port: Invalid value: 0: ` + portText},
		{"liveness threshold", func(p *corev1.Pod, c *corev1.Container) {
			c.LivenessProbe = probe(exec)
			c.LivenessProbe.SuccessThreshold = 2
		}, `spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1`},
		{"negative delay", func(p *corev1.Pod, c *corev1.Container) {
			c.ReadinessProbe = probe(exec)
			c.ReadinessProbe.InitialDelaySeconds = -1
		}, `spec.containers[0].readinessProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0`},
		{"readiness grace", func(p *corev1.Pod, c *corev1.Container) {
			c.ReadinessProbe = probe(exec)
			c.ReadinessProbe.TerminationGracePeriodSeconds = ptr(int64(1))
		}, `spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes`},
		{"liveness grace", func(p *corev1.Pod, c *corev1.Container) {
			c.LivenessProbe = probe(exec)
			c.LivenessProbe.TerminationGracePeriodSeconds = ptr(int64(0))
		}, `spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0`},
		{"sleep", func(p *corev1.Pod, c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 31}}}
		}, `spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)`},
	})
}

func TestResources(t *testing.T) {
	set := func(f func(r *corev1.ResourceRequirements)) func(*corev1.Pod, *corev1.Container) {
		return func(_ *corev1.Pod, c *corev1.Container) { f(&c.Resources) }
	}
	runBad(t, []badCase{
		{"over limit", set(func(r *corev1.ResourceRequirements) {
			r.Limits, r.Requests = list("cpu", "1"), list("cpu", "2")
		}), `spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`},
		{"negative", set(func(r *corev1.ResourceRequirements) { r.Limits = list("memory", "-1") }),
			`spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0`},
		{"unknown", set(func(r *corev1.ResourceRequirements) { r.Limits = list("disk", "1") }),
			`spec.containers[0].resources.limits[disk]: Invalid value: "disk": must be a standard resource for containers`},
		{"extended without limit", set(func(r *corev1.ResourceRequirements) { r.Requests = list("x.io/gpu", "1") }),
			`spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources`},
		{"extended differs", set(func(r *corev1.ResourceRequirements) {
			r.Limits, r.Requests = list("x.io/gpu", "2"), list("x.io/gpu", "1")
		}), `spec.containers[0].resources.requests: Invalid value: "1": must be equal to x.io/gpu limit of 2`},
		{"extended fraction", set(func(r *corev1.ResourceRequirements) { r.Limits = list("x.io/gpu", "500m") }),
			`spec.containers[0].resources.limits[x.io/gpu]: Invalid value: "500m": must be an integer`},
		{"huge pages alone", set(func(r *corev1.ResourceRequirements) { r.Limits = list("hugepages-2Mi", "2Mi") }),
			`spec.containers[0].resources: Forbidden: HugePages require cpu or memory`},
		{"claim", set(func(r *corev1.ResourceRequirements) { r.Claims = []corev1.ResourceClaim{{Name: "tpu"}} }),
			`spec.containers[0].resources.claims[0]: Not found: "tpu": must be one of the names in pod.spec.resourceClaims: gpu`},
	})
}

func TestSecurity(t *testing.T) {
	runBad(t, []badCase{
		{"user", func(p *corev1.Pod, c *corev1.Container) { p.Spec.SecurityContext.RunAsUser = ptr(int64(-1)) },
			`spec.securityContext.runAsUser: Invalid value: -1: ` + idText},
		{"group", func(p *corev1.Pod, c *corev1.Container) { p.Spec.SecurityContext.RunAsGroup = ptr(int64(-1)) },
			`spec.securityContext.runAsGroup: Invalid value: -1: ` + idText},
		{"fsGroup", func(p *corev1.Pod, c *corev1.Container) { p.Spec.SecurityContext.FSGroup = ptr(int64(-1)) },
			`spec.securityContext.fsGroup: Invalid value: -1: ` + idText},
		{"supplemental", func(p *corev1.Pod, c *corev1.Container) { p.Spec.SecurityContext.SupplementalGroups = []int64{-1} },
			`spec.securityContext.supplementalGroups[0]: Invalid value: -1: ` + idText},
		{"fsGroup change", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.SecurityContext.FSGroupChangePolicy = ptr(corev1.PodFSGroupChangePolicy("x"))
		}, `spec.securityContext.fsGroupChangePolicy: Unsupported value: "x": supported values: "Always", "OnRootMismatch"`},
		{"supplemental policy", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.SecurityContext.SupplementalGroupsPolicy = ptr(corev1.SupplementalGroupsPolicy("x"))
		}, `spec.securityContext.supplementalGroupsPolicy: Unsupported value: "x": supported values: "Merge", "Strict"`},
		{"sysctl", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "A"}}
		}, `spec.securityContext.sysctls[0].name: Invalid value: "A": must have at most 253 characters and match regex ` + sysctlPattern},
		{"sysctl twice", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "a.b"}, {Name: "a.b"}}
		}, `spec.securityContext.sysctls[1].name: Duplicate value: "a.b"`},
		{"host sysctl", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.HostNetwork = true
			p.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_forward"}}
		}, `spec.securityContext.sysctls[0].name: Invalid value: "net.ipv4.ip_forward": may not be specified when 'hostNetwork' is true`},
		{"seccomp type", func(p *corev1.Pod, c *corev1.Container) {
			p.Spec.SecurityContext.SeccompProfile = &corev1.SeccompProfile{Type: "x"}
		}, `spec.securityContext.seccompProfile.type: Unsupported value: "x": supported values: "Localhost", "RuntimeDefault", "Unconfined"`},
		{"seccomp local", func(p *corev1.Pod, c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: "Localhost"}}
		}, `spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost`},
		{"apparmor", func(p *corev1.Pod, c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: "x"}}
		}, `spec.containers[0].securityContext.appArmorProfile.type: Unsupported value: "x": supported values: "Localhost", "RuntimeDefault", "Unconfined"`},
		{"container user", func(p *corev1.Pod, c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(-1))}
		}, `spec.containers[0].securityContext.runAsUser: Invalid value: -1: ` + idText},
		{"unmasked", func(p *corev1.Pod, c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{ProcMount: ptr(corev1.UnmaskedProcMount)}
		}, "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"},
	})
	p := basePod()
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr(true), AllowPrivilegeEscalation: ptr(false)}
	errs := Validate(&p.Spec, &p.ObjectMeta, field.NewPath("spec"), Options{})
	if len(errs) != 1 || errs[0].Detail != "cannot set `allowPrivilegeEscalation` to false and `privileged` to true" {
		t.Errorf("privileged without escalation: %v", errs)
	}
}

func ExampleQOSClass() {
	for _, r := range []corev1.ResourceRequirements{
		{}, {Requests: list("cpu", "1")},
		{Requests: list("cpu", "1", "memory", "1Gi"), Limits: list("cpu", "1", "memory", "1Gi")},
		{Limits: list("memory", "1Gi")},
	} {
		fmt.Println(QOSClass(&corev1.PodSpec{Containers: []corev1.Container{{Resources: r}}}))
	}
	// Output:
	// BestEffort
	// Burstable
	// Guaranteed
	// Burstable
}
