package plugins

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

// bench runs the chain, or one plugin of it, against a door.
type bench struct {
	door     doortest.Door
	allowed  []authz.Attributes // what Authz allows
	config   Config
	warnings []string
	notes    map[string]string
}

func (b *bench) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	for _, w := range b.allowed {
		if w.User.Name == a.User.Name && w.Verb == a.Verb && w.Resource == a.Resource && w.Name == a.Name {
			return authz.Allow, "", nil
		}
	}
	return authz.NoOpinion, "", nil
}

func newBench() *bench {
	b := &bench{}
	doortest.Put(&b.door, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	doortest.Put(&b.door, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}})
	return b
}

// run sends a write through the plugins of the given names (none: all).
func (b *bench) run(a *admission.Attributes, names ...string) error {
	b.warnings, b.notes = nil, map[string]string{}
	a.Warn = func(s string) { b.warnings = append(b.warnings, s) }
	a.Annotate = func(k, v string) { b.notes[k] = v }
	conf := b.config
	conf.Door, conf.Authz = &b.door, b
	chain, err := New(conf)
	if err != nil {
		return err
	}
	for _, phase := range []func(admission.Plugin) error{
		func(p admission.Plugin) error { return p.Admit(context.Background(), a) },
		func(p admission.Plugin) error { return p.Validate(context.Background(), a) },
	} {
		for _, p := range chain {
			if !p.Handles(a.Operation) || len(names) > 0 && !slices.Contains(names, p.Name()) {
				continue
			}
			if err := phase(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func write[T client.Object](op admission.Operation, k client.Kind[T], obj, old client.Object) *admission.Attributes {
	a := &admission.Attributes{Operation: op, Kind: k.GVK(), Resource: k.GroupVersionResource, User: client.User{Name: "ann"}}
	for _, o := range []client.Object{old, obj} {
		if o != nil {
			a.Name, a.Namespace = o.GetName(), o.GetNamespace()
		}
	}
	if obj != nil {
		a.Object = obj
	}
	if old != nil {
		a.Old = old
	}
	return a
}

func create[T client.Object](k client.Kind[T], obj T) *admission.Attributes {
	return write(admission.Create, k, obj, nil)
}

func newTestPod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if change != nil {
		change(p)
	}
	return p
}

func check(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %v, want %q", what, err, want)
	case want != "" && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err):
		t.Errorf("%s: %v is not an API status that clients know", what, err)
	}
}

func TestOrder(t *testing.T) {
	chain, err := New(Config{Select: Selection{Disable: []string{"Priority"}, Enable: []string{"AlwaysPullImages", "DenyServiceExternalIPs"}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range chain {
		got = append(got, p.Name())
	}
	want := strings.Fields(`ResourceClaimAdminAccess ResourceClaimStatusAuthorization PodCertificateRequestSigning NamespaceLifecycle LimitRanger ServiceAccount NodeRestriction TaintNodesByCondition AlwaysPullImages PodSecurity
		DefaultTolerationSeconds DefaultStorageClass StorageObjectInUseProtection PersistentVolumeClaimResize RuntimeClass CertificateApproval
		CertificateSigning ClusterTrustBundleAttest CertificateSubjectRestriction DefaultIngressClass DenyServiceExternalIPs PodTopologyLabels
		NodeDeclaredFeatureValidator PodResizeValidator ResourceQuota`)
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if chain, err = New(Config{Select: Selection{Only: []string{"Priority", "ServiceAccount"}}}); err != nil || len(chain) != 5 || chain[3].Name() != "ServiceAccount" {
		t.Errorf("got %v, %v", chain, err)
	}
}

func TestPlainPod(t *testing.T) {
	b := newBench()
	pod := newTestPod(func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "init"}} })
	if err := b.run(create(client.Pods, pod)); err != nil {
		t.Fatal(err)
	}
	if pod.Spec.ServiceAccountName != "default" || *pod.Spec.Priority != 0 || *pod.Spec.PreemptionPolicy != corev1.PreemptLowerPriority || len(pod.Spec.Tolerations) != 2 {
		t.Errorf("got %+v", pod.Spec)
	}
	v := pod.Spec.Volumes[0]
	if !strings.HasPrefix(v.Name, "kube-api-access-") || len(v.Name) != len("kube-api-access-")+5 || *v.Projected.DefaultMode != 0o644 || len(v.Projected.Sources) != 3 ||
		*v.Projected.Sources[0].ServiceAccountToken.ExpirationSeconds != 3607 || v.Projected.Sources[1].ConfigMap.Name != "kube-root-ca.crt" {
		t.Errorf("volume %+v", v)
	}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if len(c.VolumeMounts) != 1 || c.VolumeMounts[0].Name != v.Name || c.VolumeMounts[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" || !c.VolumeMounts[0].ReadOnly {
			t.Errorf("%s mounts %+v", c.Name, c.VolumeMounts)
		}
	}
	// A second pass, after a webhook has changed something, adds nothing.
	again := pod.DeepCopy()
	if err := b.run(create(client.Pods, again)); err != nil {
		t.Fatal(err)
	}
	if len(again.Spec.Volumes) != 1 || len(again.Spec.Tolerations) != 2 || len(again.Spec.Containers[0].VolumeMounts) != 1 {
		t.Errorf("the second pass changed the pod: %+v", again.Spec)
	}
}

func TestServiceAccount(t *testing.T) {
	no := false
	b := newBench()
	doortest.Put(&b.door, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "quiet"}, AutomountServiceAccountToken: &no,
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}})
	doortest.Put(&b.door, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "strict", Annotations: map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"}},
		Secrets: []corev1.ObjectReference{{Name: "mine"}}})
	yes := true
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		p := newTestPod(change)
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		return p
	}
	secretVolume := func(name string) []corev1.Volume {
		return []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}
	}
	for name, tc := range map[string]struct {
		pod    *corev1.Pod
		err    string
		mounts int
	}{
		"account says no":                   {newTestPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" }), "", 0},
		"pod says yes":                      {newTestPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet"; p.Spec.AutomountServiceAccountToken = &yes }), "", 1},
		"pod says no":                       {newTestPod(func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = &no }), "", 0},
		"no such account":                   {newTestPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "lost" }), `pods "p" is forbidden: error looking up service account ns/lost: serviceaccount "lost" not found`, 0},
		"mirror":                            {mirror(nil), "", 0},
		"mirror with account":               {mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" }), "a mirror pod may not reference service accounts", 0},
		"mirror with a secret to pull with": {mirror(func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "x"}} }), "a mirror pod may not reference secrets", 0},
		"mirror with secret":                {mirror(func(p *corev1.Pod) { p.Spec.Volumes = secretVolume("x") }), "a mirror pod may not reference secrets", 0},
		"own secret":                        {newTestPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "strict"; p.Spec.Volumes = secretVolume("mine") }), "", 1},
		"another's secret":                  {newTestPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "strict"; p.Spec.Volumes = secretVolume("theirs") }), `volume with secret.secretName="theirs" is not allowed`, 0},
		"mounts something there": {newTestPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: tokenMountPath}}
		}), "", 1},
	} {
		err := b.run(create(client.Pods, tc.pod), "ServiceAccount")
		check(t, name, err, tc.err)
		if n := len(tc.pod.Spec.Containers[0].VolumeMounts); err == nil && n != tc.mounts {
			t.Errorf("%s: %d mounts, want %d", name, n, tc.mounts)
		}
		if tc.pod.Spec.ServiceAccountName == "quiet" && (len(tc.pod.Spec.ImagePullSecrets) != 1 || tc.pod.Spec.ImagePullSecrets[0].Name != "pull") {
			t.Errorf("%s: pull secrets %v", name, tc.pod.Spec.ImagePullSecrets)
		}
	}
}

// A pod that comes right after its namespace waits for the account.
func TestWaitsForTheDefaultAccount(t *testing.T) {
	b := newBench()
	doortest.Put(&b.door, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}})
	asked := make(chan struct{}, 100)
	b.door.Before = func(req *client.Request) error {
		if req.Verb == client.Watch {
			asked <- struct{}{}
		}
		return nil
	}
	go func() {
		<-asked
		doortest.Put(&b.door, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "fresh", Name: "default"}})
	}()
	pod := newTestPod(func(p *corev1.Pod) { p.Namespace = "fresh" })
	if err := b.run(create(client.Pods, pod), "ServiceAccount"); err != nil {
		t.Error(err)
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	b := newBench()
	doortest.Put(&b.door, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "dying"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}})
	cm := func(ns string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "c"}}
	}
	namespace := func(name string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	for name, tc := range map[string]struct {
		a   *admission.Attributes
		err string
	}{
		"there":                {create(client.ConfigMaps, cm("ns")), ""},
		"absent":               {create(client.ConfigMaps, cm("lost")), `namespaces "lost" not found`},
		"dying":                {create(client.ConfigMaps, cm("dying")), `configmaps "c" is forbidden: unable to create new content in namespace dying because it is being terminated`},
		"update in dying":      {write(admission.Update, client.ConfigMaps, cm("dying"), cm("dying")), ""},
		"delete in dying":      {write(admission.Delete, client.ConfigMaps, nil, cm("dying")), ""},
		"delete a namespace":   {write(admission.Delete, client.Namespaces, nil, namespace("ns")), ""},
		"delete default":       {write(admission.Delete, client.Namespaces, nil, namespace("default")), `namespaces "default" is forbidden: this namespace may not be deleted`},
		"delete kube-system":   {write(admission.Delete, client.Namespaces, nil, namespace("kube-system")), "this namespace may not be deleted"},
		"a namespace":          {create(client.Namespaces, namespace("new")), ""},
		"cluster-scoped thing": {create(client.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}), ""},
	} {
		err := b.run(tc.a, "NamespaceLifecycle")
		check(t, name, err, tc.err)
		if name == "dying" && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			t.Errorf("no cause that clients look for: %v", err)
		}
	}
}

func TestPriority(t *testing.T) {
	b := newBench()
	never := corev1.PreemptNever
	class := func(name string, v int32, def bool, p *corev1.PreemptionPolicy) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: v, GlobalDefault: def, PreemptionPolicy: p}
	}
	doortest.Put(&b.door, client.PriorityClasses, class("high", 1000, false, &never))
	named := func(name string, prio *int32) *corev1.Pod {
		return newTestPod(func(p *corev1.Pod) { p.Spec.PriorityClassName, p.Spec.Priority = name, prio })
	}
	run := func(what string, pod *corev1.Pod, want int32, wantErr string) {
		t.Helper()
		err := b.run(create(client.Pods, pod), "Priority")
		check(t, what, err, wantErr)
		if err == nil && *pod.Spec.Priority != want {
			t.Errorf("%s: priority %d, want %d", what, *pod.Spec.Priority, want)
		}
	}
	run("none", named("", nil), 0, "")
	p := named("high", nil)
	run("class", p, 1000, "")
	if *p.Spec.PreemptionPolicy != never {
		t.Error("the class's preemption policy is lost")
	}
	run("right number", named("high", new(int32(1000))), 1000, "")
	run("wrong number", named("high", new(int32(5))), 0, "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name")
	run("number alone", named("", new(int32(2_000_000_000))), 0, "must not be provided in pod spec")
	run("no class", named("lost", nil), 0, "no PriorityClass with name lost was found")
	check(t, "first default", b.run(create(client.PriorityClasses, class("def", 7, true, nil)), "Priority"), "")
	doortest.Put(&b.door, client.PriorityClasses, class("def", 7, true, nil))
	check(t, "second default", b.run(create(client.PriorityClasses, class("def2", 8, true, nil)), "Priority"), "PriorityClass def is already marked as default. Only one default can exist")
	check(t, "the default again", b.run(write(admission.Update, client.PriorityClasses, class("def", 7, true, nil), class("def", 7, true, nil)), "Priority"), "")
	p = named("", nil)
	run("default", p, 7, "")
	if p.Spec.PriorityClassName != "def" {
		t.Errorf("class %q", p.Spec.PriorityClassName)
	}
	old, upd := named("high", new(int32(1000))), named("high", nil)
	check(t, "update", b.run(write(admission.Update, client.Pods, upd, old), "Priority"), "")
	if upd.Spec.Priority == nil || *upd.Spec.Priority != 1000 {
		t.Error("an update lost the priority")
	}
}

func TestTolerationsAndTaints(t *testing.T) {
	b := newBench()
	for name, tc := range map[string]struct {
		have []corev1.Toleration
		want int
	}{
		"none":          {nil, 2},
		"everything":    {[]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, 1},
		"one of them":   {[]corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists}}, 2},
		"other effect":  {[]corev1.Toleration{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}, 3},
		"no eviction":   {[]corev1.Toleration{{Effect: corev1.TaintEffectNoExecute, Operator: corev1.TolerationOpExists}}, 1},
		"for scheduler": {[]corev1.Toleration{{Effect: corev1.TaintEffectNoSchedule, Operator: corev1.TolerationOpExists}}, 3},
	} {
		pod := newTestPod(func(p *corev1.Pod) { p.Spec.Tolerations = tc.have })
		check(t, name, b.run(create(client.Pods, pod), "DefaultTolerationSeconds"), "")
		if len(pod.Spec.Tolerations) != tc.want {
			t.Errorf("%s: %v", name, pod.Spec.Tolerations)
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	for range 2 {
		check(t, "node", b.run(create(client.Nodes, node), "TaintNodesByCondition"), "")
	}
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != "node.kubernetes.io/not-ready" || node.Spec.Taints[0].Effect != corev1.TaintEffectNoSchedule {
		t.Errorf("taints %v", node.Spec.Taints)
	}
}

func TestRuntimeClass(t *testing.T) {
	b := newBench()
	cpu := corev1.ResourceList{"cpu": resource.MustParse("100m")}
	doortest.Put(&b.door, client.RuntimeClasses, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm", Overhead: &nodev1.Overhead{PodFixed: cpu},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm"}}}})
	with := func(class string, change func(*corev1.Pod)) *corev1.Pod {
		p := newTestPod(change)
		if class != "" {
			p.Spec.RuntimeClassName = &class
		}
		return p
	}
	for name, tc := range map[string]struct {
		pod *corev1.Pod
		err string
	}{
		"class":             {with("vm", nil), ""},
		"no class":          {with("", nil), ""},
		"lost class":        {with("lost", nil), `pod rejected: RuntimeClass "lost" not found`},
		"overhead alone":    {with("", func(p *corev1.Pod) { p.Spec.Overhead = cpu }), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		"other overhead":    {with("vm", func(p *corev1.Pod) { p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("1")} }), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"},
		"selector conflict": {with("vm", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"vm": "no"} }), "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"},
	} {
		check(t, name, b.run(create(client.Pods, tc.pod), "RuntimeClass"), tc.err)
		if name == "class" && (len(tc.pod.Spec.Overhead) != 1 || tc.pod.Spec.NodeSelector["vm"] != "yes" || len(tc.pod.Spec.Tolerations) != 1) {
			t.Errorf("got %+v", tc.pod.Spec)
		}
	}
}

func TestPodSecurity(t *testing.T) {
	b := newBench()
	labelled := func(name string, labels map[string]string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	for name, labels := range map[string]map[string]string{
		"restricted": {"pod-security.kubernetes.io/enforce": "restricted"}, "baseline": {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30"},
		"warned": {"pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/audit": "baseline"},
	} {
		doortest.Put(&b.door, client.Namespaces, labelled(name, labels))
	}
	plain := func(ns string, change func(*corev1.Pod)) *corev1.Pod {
		p := newTestPod(change)
		p.Namespace = ns
		return p
	}
	hostNet := func(p *corev1.Pod) { p.Spec.HostNetwork = true }
	for name, tc := range map[string]struct {
		a     *admission.Attributes
		err   string
		warns int
	}{
		"no labels":       {create(client.Pods, plain("ns", hostNet)), "", 0},
		"restricted":      {create(client.Pods, plain("restricted", nil)), `pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities`, 0},
		"baseline, plain": {create(client.Pods, plain("baseline", nil)), "", 0},
		"baseline, host":  {create(client.Pods, plain("baseline", hostNet)), `violates PodSecurity "baseline:v1.30": host namespaces (hostNetwork=true)`, 0},
		"warned":          {create(client.Pods, plain("warned", hostNet)), "", 1},
		"no change":       {write(admission.Update, client.Pods, plain("restricted", nil), plain("restricted", nil)), "", 0},
		"change":          {write(admission.Update, client.Pods, plain("baseline", hostNet), plain("baseline", nil)), "violates", 0},
		"bad level":       {create(client.Namespaces, labelled("x", map[string]string{"pod-security.kubernetes.io/enforce": "loose"})), "must be one of privileged, baseline, restricted", 0},
		"bad level stays": {write(admission.Update, client.Namespaces, labelled("x", map[string]string{"pod-security.kubernetes.io/enforce": "loose", "a": "b"}), labelled("x", map[string]string{"pod-security.kubernetes.io/enforce": "loose"})), "", 0},
		"a template is warned about": {create(client.ReplicationControllers, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "warned", Name: "r"},
			Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{Spec: plain("warned", hostNet).Spec}}}), "", 1},
	} {
		check(t, name, b.run(tc.a, "PodSecurity"), tc.err)
		if len(b.warnings) != tc.warns {
			t.Errorf("%s: warnings %q", name, b.warnings)
		}
		if name == "warned" && !strings.HasPrefix(b.notes["pod-security.kubernetes.io/audit-violations"], `would violate PodSecurity "baseline:latest"`) {
			t.Errorf("audit %v", b.notes)
		}
	}
	for i := range 3 {
		doortest.Put(&b.door, client.Pods, plain("ns", func(p *corev1.Pod) { hostNet(p); p.Name = fmt.Sprint("host", i) }))
	}
	check(t, "stricter", b.run(write(admission.Update, client.Namespaces, labelled("ns", map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}), labelled("ns", nil)), "PodSecurity"), "")
	want := []string{`existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest"`, "host0 (and 2 other pods): host namespaces"}
	if !slices.Equal(b.warnings, want) {
		t.Errorf("got %q", b.warnings)
	}
}

func TestLimitRanger(t *testing.T) {
	b := newBench()
	q := func(pairs ...string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		return out
	}
	doortest.Put(&b.door, client.LimitRanges, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Min: q("cpu", "50m"), Max: q("cpu", "1"), Default: q("cpu", "500m"), DefaultRequest: q("cpu", "100m", "memory", "1Mi"), MaxLimitRequestRatio: q("cpu", "5")},
		{Type: corev1.LimitTypePod, Max: q("memory", "1Gi")},
		{Type: corev1.LimitTypePersistentVolumeClaim, Min: q("storage", "1Gi"), Max: q("storage", "2Gi")},
	}}})
	pod := func(requests, limits corev1.ResourceList) *corev1.Pod {
		return newTestPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
		})
	}
	claim := func(size string) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
		if size != "" {
			c.Spec.Resources.Requests = q("storage", size)
		}
		return c
	}
	for name, tc := range map[string]struct {
		a   *admission.Attributes
		err string
	}{
		"defaults":      {create(client.Pods, pod(nil, q("memory", "1Mi"))), ""},
		"too little":    {create(client.Pods, pod(q("cpu", "10m"), q("cpu", "50m", "memory", "1Mi"))), "minimum cpu usage per Container is 50m, but request is 10m"},
		"too much":      {create(client.Pods, pod(q("cpu", "1"), q("cpu", "2", "memory", "1Mi"))), "maximum cpu usage per Container is 1, but limit is 2"},
		"ratio":         {create(client.Pods, pod(q("cpu", "100m"), q("cpu", "1", "memory", "1Mi"))), "cpu max limit to request ratio per Container is 5, but provided ratio is 10.000000"},
		"pod":           {create(client.Pods, pod(nil, q("memory", "2Gi"))), "maximum memory usage per Pod is 1Gi, but limit is 2Gi"},
		"pod, no limit": {create(client.Pods, pod(nil, nil)), "maximum memory usage per Pod is 1Gi.  No limit is specified"},
		"claim":         {create(client.PersistentVolumeClaims, claim("1Gi")), ""},
		"small claim":   {create(client.PersistentVolumeClaims, claim("1Mi")), "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"},
		"big claim":     {create(client.PersistentVolumeClaims, claim("3Gi")), "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"},
		"another kind":  {create(client.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}}), ""},
		"update":        {write(admission.Update, client.Pods, pod(nil, nil), pod(nil, nil)), ""},
	} {
		check(t, name, b.run(tc.a, "LimitRanger"), tc.err)
		if p, ok := tc.a.Object.(*corev1.Pod); ok && name == "defaults" {
			r := p.Spec.Containers[0].Resources
			if r.Requests.Cpu().String() != "100m" || r.Limits.Cpu().String() != "500m" || r.Requests.Memory().String() != "1Mi" ||
				p.Annotations["kubernetes.io/limit-ranger"] != "LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c" {
				t.Errorf("got %v %v", r, p.Annotations)
			}
		}
	}
}

func TestPodTopologyLabels(t *testing.T) {
	b := newBench()
	doortest.Put(&b.door, client.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z", "other": "x"}}})
	bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	a := &admission.Attributes{Operation: admission.Create, Resource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Subresource: "binding", Namespace: "ns", Name: "p", Object: bind}
	if err := b.run(a); err != nil {
		t.Fatal(err)
	}
	if len(bind.Labels) != 1 || bind.Labels[corev1.LabelTopologyZone] != "z" {
		t.Errorf("labels %v", bind.Labels)
	}
}

// A quota of what a pod must state refuses one that states nothing, even if
// nothing else of the pod is counted.
func TestQuotaDemandsStatements(t *testing.T) {
	b := newBench()
	hard := corev1.ResourceList{corev1.ResourceLimitsCPU: resource.MustParse("1")}
	doortest.Put(&b.door, client.ResourceQuotas, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: hard}, Status: corev1.ResourceQuotaStatus{Hard: hard}})
	err := b.run(create(client.Pods, newTestPod(nil)), "ResourceQuota")
	check(t, "no limit", err, `pods "p" is forbidden: failed quota: q: must specify limits.cpu for: c`)
}

// A pod made on a node has the node's zone, as one bound to it has.
func TestTopologyOfAPodOnANode(t *testing.T) {
	b := newBench()
	doortest.Put(&b.door, client.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z", "other": "x"}}})
	pod := newTestPod(func(p *corev1.Pod) { p.Spec.NodeName = "n" })
	if err := b.run(create(client.Pods, pod), "PodTopologyLabels"); err != nil || len(pod.Labels) != 1 || pod.Labels[corev1.LabelTopologyZone] != "z" {
		t.Errorf("labels %v, %v", pod.Labels, err)
	}
}

// What a pod is debugged with may read no more than the pod.
func TestSecretsOfDebuggers(t *testing.T) {
	b := newBench()
	doortest.Put(&b.door, client.ServiceAccounts, &corev1.ServiceAccount{Secrets: []corev1.ObjectReference{{Name: "mine"}}, ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "strict", Annotations: map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"},
	}})
	for secret, want := range map[string]string{
		"mine":   "",
		"theirs": `ephemeral container d with envFrom referencing secret.secretName="theirs" is not allowed because service account strict does not reference that secret`,
	} {
		old := newTestPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "strict" })
		pod := old.DeepCopy()
		pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "d", EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}},
		}}}
		a := write(admission.Update, client.Pods, pod, old)
		a.Subresource = "ephemeralcontainers"
		err := b.run(a, "ServiceAccount")
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %q", secret, err, want)
		}
	}
}
