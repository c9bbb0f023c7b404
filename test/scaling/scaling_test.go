// Package scaling_test runs two API servers on one etcd and sees that their
// clients cannot tell them from one.
package scaling_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/test/apiproc"
)

func TestMain(m *testing.M) {
	if apiproc.Main() {
		return
	}
	os.Exit(m.Run())
}

const ns = "default"

// pair starts two servers on one etcd, with the same certificates.
func pair(t *testing.T) (procs [2]*apiproc.Proc, doors [2]client.Interface) {
	t.Helper()
	url, dir := apiproc.Etcd(t), t.TempDir()
	for i := range procs {
		procs[i] = apiproc.New(t, dir, url)
		procs[i].Start()
		d, err := client.Remote(procs[i].Config())
		if err != nil {
			t.Fatal(err)
		}
		doors[i] = d
	}
	_, err := client.Namespaces.In(doors[0], "").Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return procs, doors
}

func maps(d client.Interface) client.Resource[*corev1.ConfigMap] { return client.ConfigMaps.In(d, ns) }

func object(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, Data: map[string]string{"v": value}}
}

// What one server has acknowledged, the other one's next read shows; continue
// tokens and resource versions hold at both.
func TestReadYourWritesElsewhere(t *testing.T) {
	_, doors := pair(t)
	ctx := t.Context()
	for i := range 40 {
		a, b := doors[i%2], doors[(i+1)%2]
		made, err := maps(a).Create(ctx, object(fmt.Sprintf("o%03d", i), "1"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := maps(b).Get(ctx, made.Name)
		if err != nil || got.ResourceVersion != made.ResourceVersion {
			t.Fatalf("%s at the other server: %v, %v", made.Name, got, err)
		}
		got = got.DeepCopy()
		got.Data["v"] = "2"
		changed, err := maps(b).Update(ctx, got)
		if err != nil {
			t.Fatal(err)
		}
		old := object(made.Name, "3")
		old.ResourceVersion = made.ResourceVersion
		if _, err := maps(a).Update(ctx, old); !apierrors.IsConflict(err) {
			t.Fatalf("an update of an old version: %v", err)
		}
		list, _, err := maps(a).List(ctx, client.Options{})
		if err != nil || len(list) != i+1 || !slices.ContainsFunc(list, func(m *corev1.ConfigMap) bool { return m.ResourceVersion == changed.ResourceVersion }) {
			t.Fatalf("list of %d without the change: %v", len(list), err)
		}
	}
	res, err := doors[0].Do(ctx, &client.Request{Verb: client.List, Resource: client.ConfigMaps.GroupVersionResource, Namespace: ns, Options: client.Options{Limit: 12}})
	if err != nil {
		t.Fatal(err)
	}
	n, first := len(res.List.Items), res.List.ResourceVersion
	for i := 1; res.List.Continue != ""; i++ {
		res, err = doors[i%2].Do(ctx, &client.Request{Verb: client.List, Resource: client.ConfigMaps.GroupVersionResource, Namespace: ns, Options: client.Options{Limit: 12, Continue: res.List.Continue}})
		if err != nil {
			t.Fatal(err)
		}
		n += len(res.List.Items)
		if res.List.ResourceVersion != first {
			t.Errorf("page %d is of revision %s, the first of %s", i, res.List.ResourceVersion, first)
		}
	}
	if n != 40 {
		t.Errorf("%d objects in all pages, want 40", n)
	}
}

// Clients of both servers count on the same objects: nothing is lost, and
// watchers of both see the same. When one server is killed, the other goes on.
func TestSharedCounters(t *testing.T) {
	procs, doors := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const counters = 4
	for i := range counters {
		if _, err := maps(doors[0]).Create(ctx, object(fmt.Sprint("c", i), "0")); err != nil {
			t.Fatal(err)
		}
	}
	_, from, err := maps(doors[1]).List(ctx, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var seen [2][]string
	var watching sync.WaitGroup
	for i := range doors {
		w, err := maps(doors[i]).Watch(ctx, client.Options{ResourceVersion: from})
		if err != nil {
			t.Fatal(err)
		}
		watching.Go(func() {
			defer w.Stop()
			for ev := range w.ResultChan() {
				m, ok := ev.Object.(*corev1.ConfigMap)
				if !ok {
					t.Errorf("server %d: %v", i, ev.Object)
					return
				}
				seen[i] = append(seen[i], fmt.Sprint(ev.Type, m.Name, m.Data["v"], m.ResourceVersion))
				if ev.Type == watch.Added && m.Name == "last" {
					return
				}
			}
		})
	}
	count := func(door client.Interface, writers, each int, done *atomic.Int64) {
		var wg sync.WaitGroup
		for n := range writers {
			wg.Go(func() {
				for range each {
					_, err := maps(door).Mutate(ctx, fmt.Sprint("c", n%counters), "", func(m *corev1.ConfigMap) (bool, error) {
						v, err := strconv.Atoi(m.Data["v"])
						m.Data["v"] = strconv.Itoa(v + 1)
						return true, err
					})
					if err != nil {
						t.Error(err)
						return
					}
					done.Add(1)
				}
			})
		}
		wg.Wait()
	}
	var done atomic.Int64
	var both sync.WaitGroup
	for _, d := range doors {
		both.Go(func() { count(d, 8, 10, &done) })
	}
	both.Wait()
	if _, err := maps(doors[0]).Create(ctx, object("last", "")); err != nil {
		t.Fatal(err)
	}
	watching.Wait()
	if len(seen[0]) != int(done.Load())+1 || !slices.Equal(seen[0], seen[1]) {
		t.Errorf("%d changes; the watchers saw %d and %d", done.Load()+1, len(seen[0]), len(seen[1]))
	}

	procs[0].Kill()
	count(doors[1], 4, 3, &done)
	sum := 0
	list, _, err := maps(doors[1]).List(ctx, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Name == "last" {
			continue
		}
		v, err := strconv.Atoi(m.Data["v"])
		if err != nil {
			t.Error(err)
		}
		sum += v
	}
	if sum != int(done.Load()) {
		t.Errorf("counted %d of %d", sum, done.Load())
	}
}
