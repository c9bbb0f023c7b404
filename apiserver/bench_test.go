package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
)

func quiet(c *apiserver.Config) { c.Audit, c.Admission = nil, nil }

// kib is a ConfigMap body of about 1 KiB.
func kib(name string) string {
	return fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q},"data":{"k":%q}}`, name, strings.Repeat("x", 900))
}

func (w *world) serve(b *testing.B, method, path, body, contentType string, want int) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", "bench/1")
	rec := httptest.NewRecorder()
	w.srv.ServeHTTP(rec, r)
	if rec.Code != want {
		b.Fatal(rec.Code, rec.Body.String())
	}
}

func BenchmarkCreate(b *testing.B) {
	w := newWorld(b, quiet)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.serve(b, http.MethodPost, cmPath, kib(fmt.Sprint("c", i)), asJSON, 201)
	}
}

func BenchmarkGet(b *testing.B) {
	w := newWorld(b, quiet)
	w.serve(b, http.MethodPost, cmPath, kib("g"), asJSON, 201)
	b.ReportAllocs()
	for b.Loop() {
		w.serve(b, http.MethodGet, cmPath+"/g", "", "", 200)
	}
}

func BenchmarkPatch(b *testing.B) {
	w := newWorld(b, quiet)
	w.serve(b, http.MethodPost, cmPath, kib("p"), asJSON, 201)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.serve(b, http.MethodPatch, cmPath+"/p", fmt.Sprintf(`{"data":{"n":"%d"}}`, i), string(types.MergePatchType), 200)
	}
}

func BenchmarkApply(b *testing.B) {
	w := newWorld(b, quiet)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		body := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"n":"%d","k":%q}}`, i, strings.Repeat("x", 900))
		want := 200
		if i == 0 {
			want = 201
		}
		w.serve(b, http.MethodPatch, cmPath+"/a?fieldManager=m", body, string(types.ApplyYAMLPatchType), want)
	}
}

func BenchmarkList5000(b *testing.B) {
	w := newWorld(b, quiet)
	for i := range 5000 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image"}}}}
		if _, err := client.Pods.In(w.local, "default").Create(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		w.serve(b, http.MethodGet, "/api/v1/pods", "", "", 200)
	}
}

// sink is the client of a watch: it counts the writes, and the events by their
// new lines.
type sink struct {
	header         http.Header
	writes, events *atomic.Int64
}

func (s *sink) Header() http.Header { return s.header }
func (s *sink) WriteHeader(int)     {}
func (s *sink) Flush()              {}
func (s *sink) Write(b []byte) (int, error) {
	s.writes.Add(1)
	s.events.Add(int64(bytes.Count(b, []byte{'\n'})))
	return len(b), nil
}

// BenchmarkWatchers is one event delivered to each of 200 watchers, while 8
// clients write; ns are of the whole process's CPU, writes included.
func BenchmarkWatchers(b *testing.B) {
	const watchers, clients = 200, 8
	w := newWorld(b, quiet)
	ctx, stop := context.WithCancel(b.Context())
	var writes, events atomic.Int64
	var open sync.WaitGroup
	for range watchers {
		open.Go(func() {
			r := httptest.NewRequest(http.MethodGet, cmPath+"?watch=1", nil).WithContext(ctx)
			w.srv.ServeHTTP(&sink{http.Header{}, &writes, &events}, r)
		})
	}
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	used := cpu()
	var made atomic.Int64
	b.SetParallelism(clients / 2)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			w.serve(b, http.MethodPost, cmPath, kib(fmt.Sprint("c", made.Add(1))), asJSON, 201)
		}
	})
	for events.Load() < made.Load()*watchers && !b.Failed() {
		time.Sleep(time.Millisecond)
	}
	b.ReportMetric(float64(cpu()-used)/float64(events.Load()), "cpu-ns/event")
	b.ReportMetric(float64(events.Load())/float64(writes.Load()), "events/write")
	stop()
	open.Wait()
}
