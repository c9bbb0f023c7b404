package kubelet

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

func TestShutdownGroups(t *testing.T) {
	steps := []ShutdownStep{{Priority: 10, Grace: time.Minute}, {Priority: 1000, Grace: 2 * time.Minute}, {Priority: 2_000_000_000, Grace: 10 * time.Second}}
	var workers []*worker
	for _, p := range []int32{2_000_001_000, -5, 0, 1000, 999} {
		workers = append(workers, &worker{state: podState{Asked: &corev1.Pod{Spec: corev1.PodSpec{Priority: ptr.To(p)}}}})
	}
	got := ""
	for _, g := range shutdownGroups(steps, workers, func(w *worker) int32 { return podPriority(w.asked()) }) {
		got += fmt.Sprint(g.grace)
		for _, w := range g.workers {
			got += fmt.Sprint(" ", podPriority(w.asked()))
		}
		got += "; "
	}
	if want := "1m0s -5 0 999; 2m0s 1000; 10s 2000001000; "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSysctls(t *testing.T) {
	for _, c := range []struct {
		name    string
		allowed []string
		host    bool
		want    string
	}{
		{"net.ipv4.tcp_syncookies", nil, false, ""},
		{"net/ipv4/tcp_syncookies", nil, false, ""},
		{"kernel.msgmax", nil, false, `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"kernel.msgmax", []string{"kernel.msg*"}, false, ""},
		{"net.core.somaxconn", []string{"net.core.somaxconn"}, false, ""},
		{"net.core.somaxconn", []string{"net.core.somax"}, false, `forbidden sysctl: "net.core.somaxconn" not allowlisted`},
		{"net.ipv4.tcp_syncookies", nil, true, `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
		{"kernel.shm_rmid_forced", nil, true, `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled`},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{HostNetwork: c.host, HostIPC: c.host, SecurityContext: &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: c.name}}}}}
		got := ""
		if r := admitSysctls(pod, c.allowed); r != nil {
			got = r.Message
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestShortages(t *testing.T) {
	e := Eviction{Thresholds: []Threshold{
		{Signal: SignalMemory, Limit: Amount{Quantity: 100}, Reclaim: Amount{Quantity: 50}},
		{Signal: SignalMemory, Limit: Amount{Share: 0.3}, Grace: time.Minute},
		{Signal: SignalNodeFS, Limit: Amount{Share: 0.1}},
	}}
	seen := map[int]watched{}
	step := func(memory int64, after time.Duration) string {
		passed, due := e.shortages(map[string]measured{SignalMemory: {memory, 1000}, SignalNodeFS: {500, 1000}}, seen, noon.Add(after))
		out := ""
		for _, s := range passed {
			out += fmt.Sprint(s.Limit, " ")
		}
		out += "due"
		for _, s := range due {
			out += fmt.Sprint(" ", s.Limit)
		}
		return out
	}
	for i, c := range []struct {
		memory int64
		after  time.Duration
		want   string
	}{
		{400, 0, "due"},
		{250, 0, "300 due"}, // soft: not yet
		{250, time.Minute, "300 due 300"},
		{90, time.Minute, "100 300 due 100 300"},
		{120, time.Minute, "100 300 due 100 300"}, // not enough freed
		{160, time.Minute, "300 due 300"},
		{400, time.Minute, "due"},
		{250, time.Hour, "300 due"}, // anew
	} {
		if got := step(c.memory, c.after); got != c.want {
			t.Errorf("%d: got %s, want %s", i, got, c.want)
		}
	}
}

func TestSwapLimit(t *testing.T) {
	const gi = 1 << 30
	burstable := podOf("p", 0, "1Gi")
	for name, c := range map[string]struct {
		pod   *corev1.Pod
		rules Containers
		want  int64
	}{
		"in proportion":      {burstable, Containers{Swap: true}, gi / 2},
		"not unless allowed": {burstable, Containers{}, 0},
		"best effort":        {podOf("p", 0, ""), Containers{Swap: true}, 0},
		"critical":           {podOf("p", 2_000_000_000, "1Gi"), Containers{Swap: true}, 0},
	} {
		got := swapLimit(c.pod, &c.pod.Spec.Containers[0], &c.rules, 4*gi, 2*gi)
		if got != c.want {
			t.Errorf("%s: %d", name, got)
		}
		var r runtimeapi.LinuxContainerResources
		if limitSwap(&r, true, got); r.Unified["memory.swap.max"] != strconv.FormatInt(c.want, 10) || r.MemorySwapLimitInBytes != 0 {
			t.Errorf("%s, cgroups v2: %+v", name, &r)
		}
		// With cgroups v1 nobody gets any: memory and swap have one limit together.
		r = runtimeapi.LinuxContainerResources{MemoryLimitInBytes: gi}
		if limitSwap(&r, false, got); r.MemorySwapLimitInBytes != gi || r.Unified != nil {
			t.Errorf("%s, cgroups v1: %+v", name, &r)
		}
	}
}
