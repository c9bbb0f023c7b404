package exclusive

import (
	"errors"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/coxswain/cox/kubelet/numa"
)

// box has 2 nodes of 4 cores with 2 threads each, and 4 GiB each.
func box() *numa.Machine {
	m := &numa.Machine{Memory: map[int]uint64{0: 4 << 30, 1: 4 << 30}}
	for i := range 16 {
		m.CPUs = append(m.CPUs, numa.CPU{ID: i, Core: i % 8, Socket: i % 8 / 4, Node: i % 8 / 4})
	}
	return m
}

func manager(t *testing.T, change func(*Config)) *Manager {
	t.Helper()
	cfg := Config{Machine: box(), StaticCPUs: true, ReservedCPUs: cpuset.New(0, 8), Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func container(name, cpu, memory string) corev1.Container {
	l := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: l, Limits: l}}
}

func pod(uid string, init []corev1.Container, apps ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: corev1.PodSpec{InitContainers: init, Containers: apps},
		Status: corev1.PodStatus{QOSClass: corev1.PodQOSGuaranteed},
	}
}

func (m *Manager) text(uid, name string) string {
	set, own := m.CPUs(types.UID(uid), name)
	if !own {
		return "shared " + set.String()
	}
	return set.String()
}

func refused(err error) string {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

func TestCPUs(t *testing.T) {
	m := manager(t, nil)
	p := pod("a", []corev1.Container{container("init", "4", "1Mi")}, container("two", "2", "1Mi"), container("part", "1500m", "1Mi"), container("four", "4", "1Mi"))
	if !m.Wants(p) {
		t.Fatal("not wanted")
	}
	if err := m.Admit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"init": "1-2,9-10", "two": "1,9", "four": "2-3,10-11", "part": "shared 0,4-8,12-15"} {
		if got := m.text("a", name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if err := m.Admit(t.Context(), p); err != nil || m.text("a", "two") != "1,9" {
		t.Error("a second time changes nothing", err)
	}
	b := pod("b", nil, container("c", "9", "1Mi"))
	if err := m.Admit(t.Context(), b); refused(err) != "UnexpectedAdmissionError" {
		t.Error(err)
	}
	// What was given survives a restart; what is released is shared again.
	again, err := New(m.cfg)
	if err != nil || again.text("a", "four") != "2-3,10-11" {
		t.Error(again.text("a", "four"), err)
	}
	again.Keep(map[types.UID]bool{})
	if got := again.text("a", "two"); got != "shared 0-15" {
		t.Error(got)
	}
	burstable := pod("c", nil, container("c", "2", "1Mi"))
	burstable.Status.QOSClass = corev1.PodQOSBurstable
	if m.Wants(burstable) {
		t.Error("only guaranteed pods have CPUs of their own")
	}
}

func TestCPUOptions(t *testing.T) {
	m := manager(t, func(c *Config) {
		c.Options = map[string]string{"full-pcpus-only": "true", "strict-cpu-reservation": "true"}
	})
	if err := m.Admit(t.Context(), pod("a", nil, container("c", "3", "1Mi"))); refused(err) != "SMTAlignmentError" {
		t.Error(err)
	}
	if got := m.text("x", "x"); got != "shared 1-7,9-15" {
		t.Error(got)
	}
	cfg := m.cfg
	cfg.Options = map[string]string{"no-such-option": "true"}
	if _, err := New(cfg); err == nil {
		t.Error("an unknown option")
	}
	cfg.Options, cfg.ReservedCPUs = nil, cpuset.New(99)
	if _, err := New(cfg); err == nil {
		t.Error("a reserved CPU that is none")
	}
}

func TestAlignment(t *testing.T) {
	static := func(policy, scope string) func(*Config) {
		return func(c *Config) {
			c.Policy, c.Scope, c.StaticMemory = policy, scope, true
			c.ReservedMemory = map[int]map[corev1.ResourceName]uint64{0: {corev1.ResourceMemory: 2 << 30}}
		}
	}
	m := manager(t, static(numa.SingleNode, "container"))
	// 3 GiB are only on node 1, and so are then the CPUs.
	if err := m.Admit(t.Context(), pod("a", nil, container("c", "2", "3Gi"))); err != nil {
		t.Fatal(err)
	}
	if _, nodes := m.Memory("a", "c"); nodes != "1" || m.text("a", "c") != "4,12" {
		t.Errorf("memory on %s, CPUs %s", nodes, m.text("a", "c"))
	}
	if err := m.Admit(t.Context(), pod("b", nil, container("c", "2", "3Gi"))); refused(err) != "TopologyAffinityError" {
		t.Error(err)
	}
	if err := m.Admit(t.Context(), pod("b", nil, container("c", "2", "1Gi"), container("d", "2", "1Gi"))); err != nil {
		t.Error(err)
	}
	// For the whole pod: both containers on one node.
	m = manager(t, static(numa.Restricted, "pod"))
	if err := m.Admit(t.Context(), pod("a", nil, container("c", "2", "1Gi"), container("d", "4", "1Gi"))); err != nil {
		t.Fatal(err)
	}
	_, c := m.Memory("a", "c")
	if _, d := m.Memory("a", "d"); c != d || c != "0" {
		t.Errorf("on %s and %s", c, d)
	}
	if again, err := New(m.cfg); err != nil {
		t.Error(err)
	} else if _, nodes := again.Memory("a", "c"); nodes != "0" {
		t.Errorf("after a restart: %q", nodes)
	}
	m.cfg.MaxNodes = 1
	if _, err := New(m.cfg); err == nil {
		t.Error("too many NUMA nodes")
	}
}
