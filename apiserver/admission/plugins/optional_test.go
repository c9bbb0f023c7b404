package plugins

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

// TestSelection has upstream's words for names that do not go together.
func TestSelection(t *testing.T) {
	for want, s := range map[string]Selection{
		"": {Enable: []string{"AlwaysPullImages"}, Disable: []string{"Priority", "JobValidation"}},
		`[enable-admission-plugins plugin "Foo" is unknown, enable-admission-plugins plugin "Bar" is unknown]`:  {Enable: []string{"Foo", "Bar"}},
		`disable-admission-plugins plugin "Foo" is unknown`:                                                     {Disable: []string{"Foo"}},
		`[PodSecurity] in enable-admission-plugins and disable-admission-plugins overlapped`:                    {Enable: []string{"PodSecurity"}, Disable: []string{"PodSecurity"}},
		`admission-control and enable-admission-plugins/disable-admission-plugins flags are mutually exclusive`: {Only: []string{"PodSecurity"}, Enable: []string{"PodSecurity"}},
	} {
		got := ""
		if err := s.Check(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%v: %q, want %q", s, got, want)
		}
	}
}

// TestConfigurations refuses wrong ones in upstream's words.
func TestConfigurations(t *testing.T) {
	for _, c := range []struct{ plugin, config, want string }{
		{"PodSecurity", `{apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: foo, warn-version: bar}}`,
			`failed to initialize admission plugin "PodSecurity": PodSecurity configuration error: [enforce: must be one of privileged, baseline, restricted, warn-version: must be "latest" or "v1.x"]`},
		{"EventRateLimit", `{apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: Foo, qps: 0, burst: 0, cacheSize: -1}]}`,
			`couldn't init admission plugin "EventRateLimit": [limits[0].type: Unsupported value: "Foo": supported values: "Server", "Namespace", "User", "SourceAndObject", limits[0].burst: Invalid value: 0: must be positive, limits[0].qps: Invalid value: 0: must be positive, limits[0].cacheSize: Invalid value: -1: must not be negative]`},
		{"EventRateLimit", ``, `couldn't init admission plugin "EventRateLimit": limits: Invalid value: null: must not be empty`},
		{"ImagePolicyWebhook", ``, `couldn't init admission plugin "ImagePolicyWebhook": no config specified`},
		{"ImagePolicyWebhook", `{imagePolicy: {kubeConfigFile: /nope, allowTTL: -5}}`, `couldn't init admission plugin "ImagePolicyWebhook": valid value is between 1s and 30m0s, got -5s`},
		{"ResourceQuota", `{apiVersion: apiserver.config.k8s.io/v1, kind: ResourceQuotaConfiguration, limitedResources: [{resource: "", matchContains: [x]}]}`,
			`couldn't init admission plugin "ResourceQuota": limitedResources[0].resource: Required value`},
		{"PodTolerationRestriction", `{apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1, kind: Configuration, default: [{key: a, operator: Foo}]}`,
			`couldn't init admission plugin "PodTolerationRestriction": invalid config: [podtolerationrestriction.default[0].operator: Unsupported value: "Foo": supported values: "Equal", "Exists"]`},
	} {
		_, err := New(Config{Select: Selection{Only: []string{c.plugin}}, Configs: map[string][]byte{c.plugin: []byte(c.config)}})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s %s: %v\nwant %s", c.plugin, c.config, err, c.want)
		}
	}
}

func TestReadConfigs(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("limits.yaml", "limits: []")
	head := "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"
	got, err := ReadConfigs(write("a.yaml", head+"- {name: A, configuration: {x: 1}}\n- {name: B, path: limits.yaml}\n- {name: C}\n"))
	if err != nil || string(got["A"]) != `{"x":1}` || string(got["B"]) != "limits: []" || len(got) != 2 {
		t.Errorf("%q, %v", got, err)
	}
	for text, want := range map[string]string{
		head + "- {name: A, path: none.yaml}":               "Couldn't open admission plugin configuration",
		"apiVersion: x/v1\nkind: AdmissionConfiguration":    "unknown version",
		"apiVersion: apiserver.config.k8s.io/v1\nkind: Foo": "unknown kind",
		head + "- {nam: A}":                                 "unknown field",
	} {
		if _, err := ReadConfigs(write("b.yaml", text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func podIn(ns string, change func(*corev1.Pod)) *admission.Attributes {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if change != nil {
		change(p)
	}
	return &admission.Attributes{Operation: admission.Create, Resource: client.Pods.GroupVersionResource, Namespace: ns, Name: "p", Object: p}
}

// optional is a bench on which one plugin runs.
func optional(name, config string) *bench {
	b := newBench()
	b.config = Config{Select: Selection{Only: []string{name}}}
	if config != "" {
		b.config.Configs = map[string][]byte{name: []byte(config)}
	}
	return b
}

func TestOptionalRefusals(t *testing.T) {
	object := func(gvr schema.GroupVersionResource, o runtime.Object) *admission.Attributes {
		return &admission.Attributes{Operation: admission.Create, Resource: gvr, Namespace: "ns", Name: "x", Object: o}
	}
	service := &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: []string{"1.2.3.4"}}}
	apart := func(key string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key}}}}
		}
	}
	nodes := `{podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: "env=dev", ns: "env=dev,zone=a"}}`
	selects := func(k, v string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{k: v} }
	}
	tolerates := func(l ...corev1.Toleration) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Tolerations = l } }
	whitelist := `{apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1, kind: Configuration, whitelist: [{key: k, operator: Exists}]}`
	for _, c := range []struct {
		plugin, config string
		a              *admission.Attributes
		want           string
	}{
		{"AlwaysAdmit", "", podIn("ns", nil), ""},
		{"AlwaysDeny", "", podIn("ns", nil), `pods "p" is forbidden: admission control is denying all modifications`},
		{"DenyServiceExternalIPs", "", object(client.Services.GroupVersionResource, service), "Use of external IPs is denied by admission control"},
		{"LimitPodHardAntiAffinityTopology", "", podIn("ns", apart("zone")), "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed"},
		{"LimitPodHardAntiAffinityTopology", "", podIn("ns", apart(corev1.LabelHostname)), ""},
		{"NamespaceExists", "", podIn("gone", nil), `namespaces "gone" not found`},
		{"PodNodeSelector", nodes, podIn("ns", selects("zone", "a")), ""},
		{"PodNodeSelector", nodes, podIn("ns", selects("env", "x")), "pod node label selector conflicts with its namespace node label selector"},
		{"PodNodeSelector", nodes, podIn("ns", selects("zone", "b")), "pod node label selector labels conflict with its namespace whitelist"},
		{"PodTolerationRestriction", whitelist, podIn("ns", tolerates(corev1.Toleration{Key: "k", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})), ""},
		{"PodTolerationRestriction", whitelist, podIn("ns", tolerates(corev1.Toleration{Key: "z", Operator: corev1.TolerationOpExists})),
			"pod tolerations (possibly merged with namespace default tolerations) conflict with its cluster whitelist"},
	} {
		err := optional(c.plugin, c.config).run(c.a)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.plugin, err, c.want)
		}
	}
}

func TestOptionalChanges(t *testing.T) {
	a := podIn("ns", func(p *corev1.Pod) {
		p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "r"}}}}
	})
	pod := a.Object.(*corev1.Pod)
	check(t, "AlwaysPullImages", optional("AlwaysPullImages", "").run(a), "")
	if pod.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways || pod.Spec.Volumes[0].Image.PullPolicy != corev1.PullAlways {
		t.Errorf("images are not always pulled: %v", pod.Spec)
	}

	a = podIn("ns", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1"), "cpu": resource.MustParse("1")}
	})
	pod = a.Object.(*corev1.Pod)
	check(t, "ExtendedResourceToleration", optional("ExtendedResourceToleration", "").run(a), "")
	if got := pod.Spec.Tolerations; len(got) != 1 || got[0] != (corev1.Toleration{Key: "example.com/gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}) {
		t.Errorf("got %v", got)
	}

	b := optional("NamespaceAutoProvision", "")
	check(t, "NamespaceAutoProvision", b.run(podIn("fresh", nil)), "")
	if _, err := client.Namespaces.In(&b.door, "").Get(t.Context(), "fresh"); err != nil {
		t.Errorf("the namespace was not made: %v", err)
	}

	a = podIn("ns", nil)
	pod = a.Object.(*corev1.Pod)
	b = optional("PodTolerationRestriction", "")
	doortest.Put(&b.door, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Annotations: map[string]string{
		defaultTolerationsAnnotation: `[{"key":"k","operator":"Exists"},{"key":"k","operator":"Exists"}]`,
	}}})
	check(t, "PodTolerationRestriction", b.run(a), "")
	if len(pod.Spec.Tolerations) != 1 || pod.Spec.Tolerations[0].Key != "k" {
		t.Errorf("got %v", pod.Spec.Tolerations)
	}
}

func TestEventRateLimit(t *testing.T) {
	b := optional("EventRateLimit", `{apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: Namespace, qps: 1, burst: 2}, {type: User, qps: 1, burst: 2}]}`)
	chain, err := New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	event := func() *admission.Attributes {
		return &admission.Attributes{
			User: client.User{Name: "u"}, Operation: admission.Create, Namespace: "ns",
			Resource: schema.GroupVersionResource{Version: "v1", Resource: "events"}, Object: &corev1.Event{},
		}
	}
	for range 2 {
		if err := chain[len(chain)-1].Validate(t.Context(), event()); err != nil {
			t.Fatal(err)
		}
	}
	err = chain[len(chain)-1].Validate(t.Context(), event())
	if !apierrors.IsTooManyRequests(err) || err.Error() != "Too many requests: [limit reached on type Namespace for key ns, limit reached on type User for key u]" {
		t.Errorf("got %v", err)
	}
}

func TestOwnerReferencesPermission(t *testing.T) {
	ref := func(kind string, block bool) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "v1", Kind: kind, Name: "o", UID: "u", BlockOwnerDeletion: &block}}
	}
	b := optional("OwnerReferencesPermissionEnforcement", "")
	b.config.Owners = func(gvk schema.GroupVersionKind) (string, bool, bool) { return "pods", true, gvk.Kind == "Pod" }
	write := func(op admission.Operation, refs, had []metav1.OwnerReference) error {
		a := &admission.Attributes{
			User: client.User{Name: "u"}, Operation: op, Namespace: "ns", Name: "c", Resource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"},
			Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{OwnerReferences: refs}},
		}
		if op == admission.Update {
			a.Old = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{OwnerReferences: had}}
		}
		return b.run(a)
	}
	check(t, "create", write(admission.Create, ref("Pod", false), nil), "")
	check(t, "create blocking", write(admission.Create, ref("Pod", true), nil), "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>")
	check(t, "unknown", write(admission.Create, ref("Foo", true), nil), `cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion v1 Kind Foo: no matches for kind "Foo" in version "v1"`)
	check(t, "update", write(admission.Update, ref("Pod", false), nil), "cannot set an ownerRef on a resource you can't delete: , <nil>")
	check(t, "unchanged", write(admission.Update, ref("Pod", true), ref("Pod", true)), "")
	b.allowed = append(b.allowed, authz.Attributes{User: client.User{Name: "u"}, Verb: "delete", Resource: "configmaps", Name: "c"},
		authz.Attributes{User: client.User{Name: "u"}, Verb: "update", Resource: "pods", Name: "o"})
	check(t, "allowed", write(admission.Update, ref("Pod", true), nil), "")
}

func TestExemptions(t *testing.T) {
	conf := `{apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: restricted, enforce-version: latest}, exemptions: {usernames: [boss], namespaces: [free], runtimeClasses: [rc]}}`
	b := optional("PodSecurity", conf)
	check(t, "by default", b.run(podIn("ns", nil)), `violates PodSecurity "restricted:latest"`)
	for want, a := range map[string]*admission.Attributes{
		"namespace":    podIn("free", nil),
		"user":         podIn("ns", nil),
		"runtimeClass": podIn("ns", func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("rc") }),
	} {
		if want == "user" {
			a.User.Name = "boss"
		}
		check(t, want, b.run(a), "")
		if b.notes["pod-security.kubernetes.io/exempt"] != want {
			t.Errorf("%s: noted %v", want, b.notes)
		}
	}
}

// Who gives an exempt namespace a policy is told that it has no effect.
func TestWarningOfExemption(t *testing.T) {
	const conf = `{apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration,
		defaults: {enforce: baseline, audit: restricted, audit-version: v1.30, warn: restricted}, exemptions: {namespaces: [free]}}`
	for _, tc := range []struct {
		name   string
		labels map[string]string
		want   string // in brackets, "-" is no warning
	}{
		{"free", nil, "-"},
		{"free", map[string]string{"enforce": "baseline"}, "-"},
		{"free", map[string]string{"enforce": "privileged"}, ""},
		{"free", map[string]string{"enforce": "privileged", "audit": "privileged", "warn": "privileged"}, "-"},
		{"free", map[string]string{"enforce": "restricted", "enforce-version": "v1.30"}, "enforce=restricted:v1.30"},
		{"free", map[string]string{"audit-version": "v1.31"}, "audit=restricted:v1.31"},
		{"free", map[string]string{"enforce": "restricted", "audit": "baseline", "warn": "privileged"}, "enforce=restricted:latest, audit=baseline:v1.30"},
		{"other", map[string]string{"enforce": "restricted"}, "-"},
	} {
		labels := map[string]string{}
		for k, v := range tc.labels {
			labels["pod-security.kubernetes.io/"+k] = v
		}
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tc.name, Labels: labels}}
		b := optional("PodSecurity", conf)
		check(t, tc.name, b.run(&admission.Attributes{Operation: admission.Create, Name: tc.name, Namespace: tc.name, Object: ns}), "")
		var want []string
		if tc.want != "-" {
			want = append(want, `namespace "free" is exempt from Pod Security, and the policy (`+tc.want+`) will be ignored`)
		}
		if !slices.Equal(b.warnings, want) {
			t.Errorf("%s %v: warned %q, want %q", tc.name, tc.labels, b.warnings, want)
		}
	}
}

// TestAdminAccess: claims of devices that others use need a namespace for it.
func TestAdminAccess(t *testing.T) {
	b := newBench()
	doortest.Put(&b.door, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "admins", Labels: map[string]string{"resource.kubernetes.io/admin-access": "true"}}})
	for ns, want := range map[string]string{
		"admins": "",
		"ns":     "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace",
	} {
		claim := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{AdminAccess: new(true)}}}}}
		for _, o := range []runtime.Object{&resourcev1.ResourceClaim{Spec: claim}, &resourcev1.ResourceClaimTemplate{Spec: resourcev1.ResourceClaimTemplateSpec{Spec: claim}}} {
			check(t, ns, b.run(&admission.Attributes{Operation: admission.Create, Namespace: ns, Name: "c", Object: o}, "ResourceClaimAdminAccess"), want)
		}
	}
}
