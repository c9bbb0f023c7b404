package store_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
	"github.com/coxswain/cox/store/storetest"
)

func benchStore(b *testing.B) *store.Store {
	s, _ := open(b, store.Config{})
	if err := s.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s
}

// kib is a ConfigMap of about 1 KiB.
func kib(name string) *corev1.ConfigMap {
	cm := storetest.ConfigMap("ns", name, "v")
	cm.Data["ballast"] = strings.Repeat("x", 900)
	return cm
}

func BenchmarkStart(b *testing.B) {
	table, err := storetest.Table()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		srv, err := etcd.Start(b.Context(), etcd.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		s, err := store.New(store.Config{Backend: srv, Table: table})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Ready(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		srv.Close()
		b.StartTimer()
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, clients := range []int{1, 32} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			i := benchStore(b).Kind(storetest.ConfigMaps)
			var n atomic.Int64
			inParallel(b, clients, func() error {
				name := fmt.Sprint("c", n.Add(1))
				_, err := i.Create(b.Context(), "ns/"+name, kib(name))
				return err
			})
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	i := benchStore(b).Kind(storetest.ConfigMaps)
	const objects = 64
	for n := range objects {
		name := fmt.Sprint("c", n)
		if _, err := i.Create(b.Context(), "ns/"+name, kib(name)); err != nil {
			b.Fatal(err)
		}
	}
	var n atomic.Int64
	inParallel(b, 32, func() error {
		v := n.Add(1)
		_, err := i.Update(b.Context(), fmt.Sprint("ns/c", v%objects), false, func(cur *store.Entry) (runtime.Object, error) {
			cm := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
			cm.Data["value"] = fmt.Sprint(v)
			return cm, nil
		})
		return err
	})
}

func BenchmarkGet(b *testing.B) {
	i := benchStore(b).Kind(storetest.ConfigMaps)
	if _, err := i.Create(b.Context(), "ns/a", kib("a")); err != nil {
		b.Fatal(err)
	}
	inParallel(b, 32, func() error {
		_, err := i.Get(b.Context(), "ns/a", "")
		return err
	})
}

func BenchmarkList5000(b *testing.B) {
	i := benchStore(b).Kind(storetest.Pods)
	var n atomic.Int64
	inParallelN(b, 64, 5000, func() error {
		name := fmt.Sprint("p", n.Add(1))
		_, err := i.Create(b.Context(), "ns/"+name, storetest.Pod("ns", name, fmt.Sprint("n", n.Load()%100)))
		return err
	})
	for name, o := range map[string]store.ListOptions{
		"all": {}, "page=500": {Limit: 500},
		"node": {Predicate: store.Predicate{Field: fields.OneTermEqualSelector("spec.nodeName", "n1")}},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := i.List(b.Context(), "", o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	l, err := i.List(b.Context(), "", store.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("messages", func(b *testing.B) { // as a list's answer is made of
		b.ReportAllocs()
		var room [24]byte
		for b.Loop() {
			for _, e := range l.Entries {
				if _, _, ok := e.Message(room[:0]); !ok {
					b.Fatal(e.Key)
				}
			}
		}
	})
}

// BenchmarkFanOut writes with many watchers: of everything, and each of a
// node of its own.
func BenchmarkFanOut(b *testing.B) {
	const watchers = 200
	for _, own := range []bool{false, true} {
		b.Run(fmt.Sprint("own=", own), func(b *testing.B) {
			i := benchStore(b).Kind(storetest.Pods)
			var got sync.WaitGroup
			var ws []store.Watcher
			for n := range watchers {
				o := store.WatchOptions{}
				if own {
					o.Predicate.Field = fields.OneTermEqualSelector("spec.nodeName", fmt.Sprint("n", n))
				}
				w, err := i.Watch(b.Context(), "", o)
				if err != nil {
					b.Fatal(err)
				}
				ws = append(ws, w)
				go func() {
					for range w.Events() {
						got.Done()
					}
				}()
			}
			n := 0
			for b.Loop() {
				n++
				got.Add(map[bool]int{false: watchers, true: 1}[own])
				name := fmt.Sprint("p", n)
				if _, err := i.Create(b.Context(), "ns/"+name, storetest.Pod("ns", name, fmt.Sprint("n", n%watchers))); err != nil {
					b.Fatal(err)
				}
				got.Wait()
			}
			for _, w := range ws {
				w.Stop()
			}
		})
	}
}

func inParallel(b *testing.B, clients int, do func() error) {
	b.ReportAllocs()
	b.ResetTimer()
	inParallelN(b, clients, b.N, do)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func inParallelN(b *testing.B, clients, ops int, do func() error) {
	var left atomic.Int64
	left.Store(int64(ops))
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
