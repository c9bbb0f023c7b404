package podspec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func podFrom(t *testing.T, text string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestDefaultPod holds the defaults of a pod against a manifest that spells
// them out.
func TestDefaultPod(t *testing.T) {
	p := podFrom(t, `
spec:
  serviceAccountName: sa
  hostNetwork: true
  volumes:
  - {name: e}
  - {name: h, hostPath: {path: /x}}
  - {name: s, secret: {secretName: s}}
  - {name: p, projected: {sources: [{serviceAccountToken: {path: t}}, {downwardAPI: {items: [{path: nm, fieldRef: {fieldPath: metadata.name}}]}}]}}
  - {name: i, image: {reference: a}}
  containers:
  - name: c
    image: reg:5000/a/b
    ports: [{containerPort: 80}]
    env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    resources: {limits: {cpu: 1500u, memory: 1Gi}, requests: {memory: 1Mi}}
    livenessProbe: {httpGet: {port: 80}}
    readinessProbe: {grpc: {port: 1}}
    lifecycle: {preStop: {httpGet: {port: 80}}}
  - {name: d, image: "a:1"}
  - {name: f, image: "a@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
status: {podIPs: [{ip: 1.2.3.4}]}
`)
	want := podFrom(t, `
spec:
  serviceAccountName: sa
  serviceAccount: sa
  hostNetwork: true
  restartPolicy: Always
  dnsPolicy: ClusterFirst
  schedulerName: default-scheduler
  terminationGracePeriodSeconds: 30
  enableServiceLinks: true
  securityContext: {}
  volumes:
  - {name: e, emptyDir: {}}
  - {name: h, hostPath: {path: /x, type: ""}}
  - {name: s, secret: {secretName: s, defaultMode: 420}}
  - {name: p, projected: {defaultMode: 420, sources: [{serviceAccountToken: {path: t, expirationSeconds: 3600}}, {downwardAPI: {items: [{path: nm, fieldRef: {apiVersion: v1, fieldPath: metadata.name}}]}}]}}
  - {name: i, image: {reference: a, pullPolicy: Always}}
  containers:
  - name: c
    image: reg:5000/a/b
    imagePullPolicy: Always
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]
    env: [{name: A, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}]
    resources: {limits: {cpu: 2m, memory: 1Gi}, requests: {cpu: 2m, memory: 1Mi}}
    livenessProbe: {httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    readinessProbe: {grpc: {port: 1, service: ""}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    lifecycle: {preStop: {httpGet: {port: 80, path: /, scheme: HTTP}}}
  - {name: d, image: "a:1", imagePullPolicy: IfNotPresent, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  - {name: f, image: "a@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", imagePullPolicy: IfNotPresent, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
status: {podIP: 1.2.3.4, podIPs: [{ip: 1.2.3.4}]}
`)
	for range 2 { // a second time changes nothing
		DefaultPod(p)
		if !apiequality.Semantic.DeepEqual(p, want) {
			a, _ := yaml.Marshal(p)
			b, _ := yaml.Marshal(want)
			t.Fatalf("got\n%s\nwant\n%s", a, b)
		}
	}
}

// TestDefaultTemplate holds what pods get and templates do not.
func TestDefaultTemplate(t *testing.T) {
	p := podFrom(t, `
spec:
  hostNetwork: true
  containers: [{name: c, image: "a:1", ports: [{containerPort: 80}], resources: {limits: {cpu: 1}}}]
`)
	tpl := &corev1.PodTemplateSpec{Spec: p.Spec}
	DefaultTemplate(tpl)
	c := tpl.Spec.Containers[0]
	if tpl.Spec.EnableServiceLinks != nil || c.Ports[0].HostPort != 0 || len(c.Resources.Requests) != 0 {
		t.Errorf("a template got a pod's defaults: %+v", tpl.Spec)
	}
	if errs := ValidateTemplate(tpl, field.NewPath("template"), Options{}); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestPodLevelResources(t *testing.T) {
	p := podFrom(t, `
spec:
  resources: {limits: {cpu: 2, memory: 1Gi}}
  containers:
  - {name: a, image: a, resources: {requests: {cpu: 500m}}}
  - {name: b, image: b, resources: {requests: {cpu: 250m}}}
`)
	DefaultPod(p)
	if got := p.Spec.Resources.Requests; got.Cpu().String() != "750m" || got.Memory().String() != "1Gi" {
		t.Errorf("requests %v: CPU is what the containers request, memory the pod's limit", got)
	}
}

func TestTemplateFor(t *testing.T) {
	good := func() *corev1.PodTemplateSpec {
		p := basePod()
		tpl := &corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}
		DefaultTemplate(tpl)
		return tpl
	}
	sel := labels.SelectorFromSet(labels.Set{"app": "a"})
	path := field.NewPath("spec", "template")
	if errs := ValidateTemplateFor(good(), sel, 2, path, Options{}); len(errs) > 0 {
		t.Fatal(errs)
	}
	for name, tc := range map[string]struct {
		change func(*corev1.PodTemplateSpec)
		want   string
	}{
		"labels": {func(x *corev1.PodTemplateSpec) { x.Labels = map[string]string{"app": "b"} },
			"spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`"},
		"restart": {func(x *corev1.PodTemplateSpec) { x.Spec.RestartPolicy = "Never" },
			`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`},
		"deadline": {func(x *corev1.PodTemplateSpec) { x.Spec.ActiveDeadlineSeconds = ptr(int64(5)) },
			`spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported`},
		"ephemeral": {func(x *corev1.PodTemplateSpec) {
			c := x.Spec.Containers[0]
			c.Name = "e"
			x.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon(c)}}
		}, `spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template`},
	} {
		x := good()
		tc.change(x)
		if errs := ValidateTemplateFor(x, sel, 2, path, Options{}); len(errs) != 1 || errs[0].Error() != tc.want {
			t.Errorf("%s: got %v\nwant %s", name, errs, tc.want)
		}
	}
}

func TestDropDisabled(t *testing.T) {
	stop := func() *corev1.PodSpec {
		return &corev1.PodSpec{
			SchedulingGroup: &corev1.PodSchedulingGroup{},
			Containers:      []corev1.Container{{Lifecycle: &corev1.Lifecycle{StopSignal: ptr(corev1.SIGTERM)}}},
		}
	}
	spec := stop()
	Gates{}.DropDisabled(spec, nil)
	if spec.SchedulingGroup != nil || spec.Containers[0].Lifecycle != nil {
		t.Errorf("fields of features that are off stay: %+v", spec)
	}
	spec = stop()
	Gates{ContainerStopSignals: true}.DropDisabled(spec, nil)
	if spec.SchedulingGroup != nil || spec.Containers[0].Lifecycle == nil {
		t.Errorf("with stop signals on: %+v", spec)
	}
	spec = stop()
	Gates{}.DropDisabled(spec, stop())
	if spec.SchedulingGroup == nil || spec.Containers[0].Lifecycle == nil {
		t.Error("fields that are stored already go")
	}
	sources := func(g Gates) (bundle, certificate bool) {
		spec := &corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}, {PodCertificate: &corev1.PodCertificateProjection{}},
		}}}}}}
		g.DropDisabled(spec, nil)
		p := spec.Volumes[0].Projected.Sources
		return p[0].ClusterTrustBundle != nil, p[1].PodCertificate != nil
	}
	for _, g := range []Gates{{}, {ClusterTrustBundleProjection: true}, {PodCertificateRequest: true}} {
		if b, c := sources(g); b != g.ClusterTrustBundleProjection || c != g.PodCertificateRequest {
			t.Errorf("%+v keeps a trust bundle: %v, a certificate: %v", g, b, c)
		}
	}
}

func TestWarnings(t *testing.T) {
	p := basePod()
	tpl := &corev1.PodTemplateSpec{Spec: p.Spec}
	tpl.Spec.NodeSelector = map[string]string{"beta.kubernetes.io/os": "linux"}
	tpl.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A"}, {Name: "A"}}
	tpl.Spec.Containers[0].Resources.Limits = list("memory", "1m")
	want := []string{
		`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
		`spec.containers[0].resources.limits[memory]: fractional byte value "1m" is invalid, must be an integer`,
		`spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`,
	}
	got := Warnings(tpl, nil)
	if !apiequality.Semantic.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}
