package kubelet_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"
)

// BenchmarkPods starts pods one after the other and all at once, and logs what
// it took. Run it once: -bench Pods -benchtime 1x.
func BenchmarkPods(t *testing.B) {
	w := newWorld(t)
	w.pod(shell("warm", "sleep 1000", "", "terminationGracePeriodSeconds: 1"))
	w.until("warm", "ready", isReady)
	var single []time.Duration
	for i := range 5 {
		name := fmt.Sprintf("one-%d", i)
		begin := time.Now()
		w.pod(shell(name, "exec sleep 1000", "", "terminationGracePeriodSeconds: 1"))
		w.until(name, "ready", isReady)
		single = append(single, time.Since(begin))
	}
	slices.Sort(single)
	t.Logf("one pod, create to Ready: %v", single)
	const n = 15
	before := cpu()
	begin := time.Now()
	for i := range n {
		w.pod(shell(fmt.Sprintf("many-%d", i), "exec sleep 1000", "", "terminationGracePeriodSeconds: 1"))
	}
	for i := range n {
		w.until(fmt.Sprintf("many-%d", i), "ready", isReady)
	}
	t.Logf("%d pods at once: %v, own CPU %v each (API server and store included)", n, time.Since(begin), (cpu()-before)/n)
	before = cpu()
	time.Sleep(2 * time.Second)
	t.Logf("idle: own CPU %v in 2 s", cpu()-before)
	begin = time.Now()
	for i := range n {
		w.delete(fmt.Sprintf("many-%d", i), 1)
	}
	for i := range n {
		w.until(fmt.Sprintf("many-%d", i), "gone", gone)
	}
	t.Logf("%d pods gone: %v", n, time.Since(begin))
}

func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
