package store_test

import (
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
)

// BenchmarkIdle reports what a store of all built-in kinds costs that no one
// uses: CPU per second, goroutines, memory.
func BenchmarkIdle(b *testing.B) {
	table, err := builtin.New()
	if err != nil {
		b.Fatal(err)
	}
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	goroutines, start := runtime.NumGoroutine(), time.Now()
	srv, err := etcd.Start(b.Context(), etcd.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer srv.Close()
	s, err := store.New(store.Config{Backend: srv, Table: table})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-to-ready")
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines), "goroutines")
	time.Sleep(6 * time.Second) // what etcd does once after a start is over
	used := cpu()
	time.Sleep(10 * time.Second)
	b.ReportMetric(float64((cpu()-used).Microseconds())/10, "µs-CPU/s")
}
