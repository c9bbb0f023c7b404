package podspec

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// What users are told of a new pod, by what it has.
func TestPodWarnings(t *testing.T) {
	ports := func(list string) string { return `{spec: {containers: [{name: c, ports: ` + list + `}]}}` }
	volume := func(source string) string { return `{spec: {volumes: [{name: v, ` + source + `}]}}` }
	for name, tc := range map[string]struct{ pod, want string }{
		"port twice":      {ports(`[{containerPort: 1}, {containerPort: 1}]`), "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"},
		"port and host's": {ports(`[{containerPort: 1}, {containerPort: 1, hostPort: 2}]`), "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]"},
		"one host's":      {ports(`[{containerPort: 1, hostPort: 2}, {containerPort: 1, hostPort: 2, hostIP: 1.2.3.4}]`), "spec.containers[0].ports[1]: dangerously ambiguous port definition with spec.containers[0].ports[0]"},
		"two of the host": {ports(`[{containerPort: 1, hostPort: 2}, {containerPort: 1, hostPort: 3}]`), ""},
		"host address":    {ports(`[{containerPort: 1, protocol: TCP, hostIP: 1.2.3.4}]`), "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:1 Protocol:TCP HostIP:1.2.3.4}"},
		"two protocols":   {ports(`[{containerPort: 1}, {containerPort: 1, protocol: UDP}]`), ""},
		"init container's": {`{spec: {initContainers: [{name: i, ports: [{containerPort: 1}]}], containers: [{name: c, ports: [{containerPort: 1}]}]}}`,
			"spec.containers[0].ports[0]: duplicate port definition with spec.initContainers[0].ports[0]"},
		"file twice":   {volume(`secret: {secretName: s, items: [{key: a, path: x}, {key: b, path: x}]}`), `volume "v" (Secret "s"): overlapping paths: "x" with "x"`},
		"file in file": {volume(`configMap: {name: m, items: [{key: a, path: x/y}, {key: b, path: x}]}`), `volume "v" (ConfigMap "m"): overlapping paths: "x" with "x/y"`},
		"alike":        {volume(`configMap: {name: m, items: [{key: a, path: xy}, {key: b, path: x}]}`), ""},
		"token over": {volume(`projected: {sources: [{configMap: {name: m, items: [{key: a, path: t}]}}, {serviceAccountToken: {path: t}}]}`),
			`volume "v" (Projected): overlapping paths: "t" (ServiceAccountToken) with "t" (ConfigMap "m")`},
		"claim": {volume(`ephemeral: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 1m}}}}}`),
			`spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value "1m" is invalid, must be an integer`},
		"overhead": {`{spec: {overhead: {memory: 1m}}}`, `spec.overhead[memory]: fractional byte value "1m" is invalid, must be an integer`},
		"node label": {`{spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: beta.kubernetes.io/os}]}]}}}}}`,
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead`},
		"preferred": {`{spec: {affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{preference: {matchExpressions: [{key: beta.kubernetes.io/arch}]}}]}}}}`,
			`spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" instead`},
		"seccomp": {`{metadata: {annotations: {seccomp.security.alpha.kubernetes.io/pod: unconfined}}}`,
			`metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead`},
		"seccomp in both": {`{metadata: {annotations: {seccomp.security.alpha.kubernetes.io/pod: unconfined}}, spec: {securityContext: {seccompProfile: {type: Unconfined}}}}`, ""},
		"critical": {`{metadata: {annotations: {scheduler.alpha.kubernetes.io/critical-pod: ""}}}`,
			`metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead`},
	} {
		t.Run(name, func(t *testing.T) {
			var p corev1.PodTemplateSpec
			if err := yaml.UnmarshalStrict([]byte(tc.pod), &p); err != nil {
				t.Fatal(err)
			}
			var want []string
			if tc.want != "" {
				want = []string{tc.want}
			}
			if got := Warnings(&p, nil); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// The profiles that old clients name in annotations become fields of a pod.
func TestAppArmorFields(t *testing.T) {
	for name, tc := range map[string]struct {
		annotation, spec string
		want             string // type and profile
		warns            bool
	}{
		"default":          {"runtime/default", `{}`, "RuntimeDefault", true},
		"local":            {"localhost/x", `{}`, "Localhost x", true},
		"field there":      {"runtime/default", `{containers: [{name: c, securityContext: {appArmorProfile: {type: Unconfined}}}]}`, "Unconfined", false},
		"pod's the same":   {"unconfined", `{securityContext: {appArmorProfile: {type: Unconfined}}}`, "", false},
		"pod's not":        {"localhost/x", `{securityContext: {appArmorProfile: {type: Unconfined}}}`, "Localhost x", true},
		"none":             {"x", `{}`, "", true},
		"no local name":    {"localhost/", `{}`, "", true},
		"another system's": {"unconfined", `{os: {name: windows}}`, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			var s corev1.PodSpec
			if err := yaml.UnmarshalStrict([]byte(tc.spec), &s); err != nil {
				t.Fatal(err)
			}
			if len(s.Containers) == 0 {
				s.Containers = []corev1.Container{{Name: "c"}}
			}
			a := map[string]string{"container.apparmor.security.beta.kubernetes.io/c": tc.annotation}
			if got := len(AppArmorWarnings(&s, a)) > 0; got != tc.warns {
				t.Errorf("warned: %v", got)
			}
			AppArmorFields(&s, a)
			got := ""
			if c := s.Containers[0].SecurityContext; c != nil && c.AppArmorProfile != nil {
				got = string(c.AppArmorProfile.Type)
				if l := c.AppArmorProfile.LocalhostProfile; l != nil {
					got += " " + *l
				}
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// Annotations and fields must name the same profiles.
func TestProfilesAgree(t *testing.T) {
	const (
		forPod  = "seccomp.security.alpha.kubernetes.io/pod"
		forOne  = "container.seccomp.security.alpha.kubernetes.io/c"
		armored = "container.apparmor.security.beta.kubernetes.io/c"
	)
	for name, tc := range map[string]struct{ key, value, spec, want string }{
		"same":            {forPod, "docker/default", `{securityContext: {seccompProfile: {type: RuntimeDefault}}}`, ""},
		"type":            {forPod, "unconfined", `{securityContext: {seccompProfile: {type: RuntimeDefault}}}`, "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"},
		"profile":         {forPod, "localhost/a", `{securityContext: {seccompProfile: {type: Localhost, localhostProfile: b}}}`, "spec.securityContext.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation and field must match"},
		"container":       {forOne, "unconfined", `{containers: [{name: c, securityContext: {seccompProfile: {type: RuntimeDefault}}}]}`, "spec.containers[0].securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"},
		"AppArmor":        {armored, "unconfined", `{initContainers: [{name: c, securityContext: {appArmorProfile: {type: RuntimeDefault}}}]}`, "spec.initContainers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"},
		"AppArmor's name": {armored, "localhost/a", `{containers: [{name: c, securityContext: {appArmorProfile: {type: Localhost, localhostProfile: b}}}]}`, "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation and field must match"},
		"no field":        {forPod, "unconfined", `{}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var s corev1.PodSpec
			if err := yaml.UnmarshalStrict([]byte(tc.spec), &s); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := ProfilesAgree(map[string]string{tc.key: tc.value}, &s, field.NewPath("spec")).ToAggregate(); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestDropInitContainerAnnotations(t *testing.T) {
	p := &corev1.Pod{}
	p.Annotations = map[string]string{"pod.beta.kubernetes.io/init-containers": "[]"}
	if DefaultPod(p); p.Annotations != nil {
		t.Errorf("got %v", p.Annotations)
	}
}
