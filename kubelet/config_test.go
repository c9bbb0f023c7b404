package kubelet

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

func q(s string) *resource.Quantity { v := resource.MustParse(s); return &v }

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)"}
	lookup := func(n string) (string, bool) { v, ok := vars[n]; return v, ok }
	for in, want := range map[string]string{
		"x": "x", "$(A)": "1", "$$(A)": "$(A)", "$(B)": "$(A)", "$(C)": "$(C)", "$(A": "$(A", "$": "$", "$A": "$A", "a$(A)b$(A)c": "a1b1c", "$$$(A)": "$1", "$$$$": "$$",
	} {
		if got := expand(in, lookup); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$($(")
	f.Fuzz(func(t *testing.T, s string) {
		none := func(string) (string, bool) { return "", false }
		if got := expand(s, none); strings.Count(s, "$") == 0 && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}

type fakeObjects map[string]any

func (f fakeObjects) ConfigMap(_, name string) (*corev1.ConfigMap, error) {
	if o, ok := f["cm/"+name]; ok {
		return o.(*corev1.ConfigMap), nil
	}
	return nil, &missingError{"configmap", name}
}

func (f fakeObjects) Secret(_, name string) (*corev1.Secret, error) {
	if o, ok := f["s/"+name]; ok {
		return o.(*corev1.Secret), nil
	}
	return nil, &missingError{"secret", name}
}

func TestEnv(t *testing.T) {
	svc := func(ns, name, ip string) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		s.Spec.ClusterIP, s.Spec.Ports = ip, []corev1.ServicePort{{Name: "https", Port: 443, Protocol: "TCP"}}
		return s
	}
	src := &envSources{
		Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", Annotations: map[string]string{"a/b": "c"}}},
		Objects: fakeObjects{
			"cm/c": &corev1.ConfigMap{Data: map[string]string{"k": "v"}}, "s/s": &corev1.Secret{Data: map[string][]byte{"k": []byte("w")}},
		},
		Services:    []*corev1.Service{svc("default", "kubernetes", "10.0.0.1"), svc("n", "my-db", "10.0.0.2"), svc("n", "headless", "None"), svc("default", "other", "10.0.0.3")},
		Allocatable: corev1.ResourceList{"cpu": *q("3500m"), "memory": *q("1Gi")},
	}
	container := func(env ...corev1.EnvVar) *corev1.Container { return &corev1.Container{Name: "c", Env: env} }
	get := func(c *corev1.Container) (map[string]string, error) {
		l, err := makeEnv(c, src)
		m := map[string]string{}
		for _, e := range l {
			m[e.Name] = e.Value
		}
		return m, err
	}
	ref := func(name, key string, opt bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &opt}}
	}
	m, err := get(container(
		corev1.EnvVar{Name: "A", Value: "$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT)"}, corev1.EnvVar{Name: "K", ValueFrom: ref("c", "k", false)},
		corev1.EnvVar{Name: "O", ValueFrom: ref("x", "k", true)}, corev1.EnvVar{Name: "P", ValueFrom: ref("c", "x", true)},
		corev1.EnvVar{Name: "F", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['a/b']"}}},
		corev1.EnvVar{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		corev1.EnvVar{Name: "MI", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: *q("1Mi")}}},
	))
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{
		"A": "10.0.0.2:443", "K": "v", "F": "c", "CPU": "4", "MI": "1024", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.0.0.1:443", "MY_DB_PORT_443_TCP_ADDR": "10.0.0.2",
	} {
		if m[k] != want {
			t.Errorf("%s=%q, want %q", k, m[k], want)
		}
	}
	for _, k := range []string{"O", "P", "HEADLESS_SERVICE_HOST", "OTHER_SERVICE_HOST"} {
		if v, ok := m[k]; ok {
			t.Errorf("%s=%q, want none", k, v)
		}
	}
	src.Pod.Spec.EnableServiceLinks = ptr.To(false)
	m, _ = get(container())
	if _, ok := m["MY_DB_SERVICE_HOST"]; ok || m["KUBERNETES_SERVICE_HOST"] == "" {
		t.Errorf("without service links: %v", m)
	}
	for want, c := range map[string]*corev1.Container{
		`configmap "x" not found`:              container(corev1.EnvVar{Name: "X", ValueFrom: ref("x", "k", false)}),
		`couldn't find key x in ConfigMap n/c`: container(corev1.EnvVar{Name: "X", ValueFrom: ref("c", "x", false)}),
		`secret "x" not found`:                 {EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}}},
	} {
		if _, err := get(c); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestDNS(t *testing.T) {
	host := resolver{[]string{"9.9.9.9"}, []string{"corp"}, []string{"timeout:1"}}
	pod := func(f func(*corev1.PodSpec)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}, Spec: corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}}
		f(&p.Spec)
		return p
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"cluster first", pod(func(s *corev1.PodSpec) {}), "[10.0.0.10] [n.svc.cluster.local svc.cluster.local cluster.local corp] [ndots:5]"},
		{"host network", pod(func(s *corev1.PodSpec) { s.HostNetwork = true }), "[9.9.9.9] [corp] [timeout:1]"},
		{"host network with cluster DNS", pod(func(s *corev1.PodSpec) { s.HostNetwork, s.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet }), "[10.0.0.10] [n.svc.cluster.local svc.cluster.local cluster.local corp] [ndots:5]"},
		{"default", pod(func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSDefault }), "[9.9.9.9] [corp] [timeout:1]"},
		{"none", pod(func(s *corev1.PodSpec) {
			s.DNSPolicy = corev1.DNSNone
			s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"x"}, Options: []corev1.PodDNSConfigOption{{Name: "edns0"}}}
		}), "[1.1.1.1] [x] [edns0]"},
		{"merged", pod(func(s *corev1.PodSpec) {
			s.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"corp", "x"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}}}
		}), "[10.0.0.10] [n.svc.cluster.local svc.cluster.local cluster.local corp x] [ndots:2]"},
	} {
		d, warning := podDNS(c.pod, []string{"10.0.0.10"}, "cluster.local", host)
		if got := fmt.Sprint(d.Servers, d.Searches, d.Options); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if warning != "" {
			t.Errorf("%s: %s", c.name, warning)
		}
	}
	p := pod(func(s *corev1.PodSpec) {
		s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "2.2.2.2", "3.3.3.3"}}
	})
	if d, warning := podDNS(p, []string{"10.0.0.10"}, "c", host); len(d.Servers) != 3 || !strings.Contains(warning, "10.0.0.10 1.1.1.1 2.2.2.2") {
		t.Errorf("too many servers: %v %s", d.Servers, warning)
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("# c\nnameserver 1.2.3.4\nsearch a. b\noptions x:1 y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := readResolver(conf); err != nil || fmt.Sprint(r) != "{[1.2.3.4] [a b] [x:1 y]}" {
		t.Errorf("got %v, %v", r, err)
	}
}

func TestNonRoot(t *testing.T) {
	zero, one := int64(0), int64(1)
	for _, c := range []struct {
		user *int64
		img  imageUser
		want string
	}{
		{nil, imageUser{}, "container has runAsNonRoot and image will run as root"},
		{nil, imageUser{UID: &zero}, "container has runAsNonRoot and image will run as root"},
		{nil, imageUser{UID: &one}, ""},
		{nil, imageUser{Name: "nginx"}, "container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root"},
		{&zero, imageUser{UID: &one}, "container's runAsUser breaks non-root policy"},
		{&one, imageUser{}, ""},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: c.user}
		_, err := containerSecurity(pod, &corev1.Container{Name: "c"}, c.img, "", false)
		if want := c.want; want == "" && err != nil || want != "" && (err == nil || err.Error() != want+` (pod: "p_n(u)", container: c)`) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestSecurity(t *testing.T) {
	pod := &corev1.Pod{}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To(int64(1)), FSGroup: ptr.To(int64(7)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	c := &corev1.Container{SecurityContext: &corev1.SecurityContext{
		RunAsUser: ptr.To(int64(2)), AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}}
	s, err := containerSecurity(pod, c, imageUser{}, "/prof", false)
	if err != nil || s.RunAsUser.Value != 2 || !s.NoNewPrivs || s.Seccomp.ProfileType != runtimeapi.SecurityProfile_RuntimeDefault ||
		!slices.Equal(s.SupplementalGroups, []int64{7}) || !slices.Equal(s.Capabilities.DropCapabilities, []string{"ALL"}) || len(s.MaskedPaths) == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	c.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("../../etc/shadow")}}
	if s, _ := containerSecurity(pod, c, imageUser{}, "/prof", false); s.Seccomp.LocalhostRef != "/prof/etc/shadow" {
		t.Errorf("a profile outside its folder: %s", s.Seccomp.LocalhostRef)
	}
}

func TestCredentials(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("u:p:w"))
	s := &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(
		`{"auths":{"reg.io":{"username":"a","password":"b"},"https://reg.io/team":{"auth":"` + auth + `"},"*.corp":{"username":"c"},"https://index.docker.io/v1/":{"username":"hub"}}}`)}}
	for image, want := range map[string][]string{
		"reg.io/team/x:1": {"u", "a"}, "reg.io/teams/x:1": {"a"}, "reg.io/x": {"a"}, "r.corp/x": {"c"}, "a.r.corp/x": nil, "docker.io/library/x:1": {"hub"}, "evil/reg.io/x": nil,
	} {
		got, err := credentials(s, image)
		var names []string
		for _, a := range got {
			names = append(names, a.Username)
			if a.ServerAddress != "" {
				t.Errorf("%s: the runtime cannot parse the address %q", image, a.ServerAddress)
			}
		}
		if err != nil || !slices.Equal(names, want) {
			t.Errorf("%s: got %v (%v), want %v", image, names, err, want)
		}
	}
	got, _ := credentials(s, "reg.io/team/x")
	if got[0].Password != "p:w" {
		t.Errorf("password %q", got[0].Password)
	}
	s.Data[corev1.DockerConfigJsonKey] = []byte(`{"auths": "hunter2"`)
	if _, err := credentials(s, "x"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestTailLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, "2026-01-01T00:00:00Z stdout F line %d\n", i)
	}
	b.WriteString("2026-01-01T00:00:00Z stderr P half\n2026-01-01T00:00:00Z stderr F  done\n")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := tailLog(path, 3, 100)
	if err != nil || string(got) != "line 199\nhalf done\n" {
		t.Errorf("got %q, %v", got, err)
	}
	got, _ = tailLog(path, 80, 10)
	if string(got) != "half done\n" {
		t.Errorf("got %q", got)
	}
}

func TestRuntimeProblem(t *testing.T) {
	st := func(ready, network bool) *runtimeapi.StatusResponse {
		return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: ready}, {Type: runtimeapi.NetworkReady, Status: network, Reason: "NetworkPluginNotReady", Message: "cni plugin not initialized"},
		}}}
	}
	for want, res := range map[string]*runtimeapi.StatusResponse{
		"": st(true, true), "container runtime not ready: RuntimeReady=false reason: message:": st(false, true),
		"container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized": st(true, false),
	} {
		if got := runtimeProblem(res, nil); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A container without a limit has its pod's, and in a pod without one the
// node's.
func TestLimitFor(t *testing.T) {
	list := func(v string) corev1.ResourceList { return corev1.ResourceList{"memory": resource.MustParse(v)} }
	for _, tc := range []struct {
		own, pods corev1.ResourceList
		want      string
	}{
		{list("1Gi"), list("2Gi"), "1073741824"}, {nil, list("2Gi"), "2147483648"}, {list("0"), list("2Gi"), "2147483648"}, {nil, nil, "4294967296"},
		{nil, corev1.ResourceList{"cpu": resource.MustParse("1")}, "4294967296"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Limits: tc.own}}}}}
		if tc.pods != nil {
			pod.Spec.Resources = &corev1.ResourceRequirements{Limits: tc.pods}
		}
		got, err := resourceField(pod, &pod.Spec.Containers[0], &corev1.ResourceFieldSelector{Resource: "limits.memory"}, list("4Gi"))
		if err != nil || got != tc.want {
			t.Errorf("%+v: %s, %v", tc, got, err)
		}
	}
}
