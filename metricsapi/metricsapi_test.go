package metricsapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
)

// kubelets answers as the kubelets of nodes would, whose containers use a
// tenth of a CPU and 4 MiB each, the nodes half a CPU and 64 MiB.
type kubelets struct {
	asked atomic.Int64
	began map[string]time.Time // containers, by pod name
	down  map[string]bool      // nodes
}

func (k *kubelets) RoundTrip(r *http.Request) (*http.Response, error) {
	k.asked.Add(1)
	node := strings.TrimSuffix(r.URL.Host, ":10250")
	if k.down[node] || r.URL.Path != "/metrics/resource" {
		return nil, errors.New("connection refused")
	}
	rec := httptest.NewRecorder()
	print := func(prefix, labels string, since time.Time, cores float64, bytes int) {
		fmt.Fprintf(rec, "# TYPE x counter\n%s_cpu_usage_seconds_total%s %v\n", prefix, labels, cores*time.Since(since).Seconds())
		fmt.Fprintf(rec, "%s_memory_working_set_bytes%s %d %d\n", prefix, labels, bytes, time.Now().UnixMilli())
		fmt.Fprintf(rec, "%s_start_time_seconds%s %d\n", prefix, labels, since.Unix())
	}
	print("node", "", time.Unix(0, 0), 0.5, 64<<20)
	for _, pod := range slices.Sorted(maps.Keys(k.began)) {
		if on, _, _ := strings.Cut(pod, "-"); on == node {
			print("container", fmt.Sprintf(`{namespace="ns",pod=%q,container="c"}`, pod), k.began[pod], 0.1, 4<<20)
		}
	}
	return rec.Result(), nil
}

// door lists nodes and pods.
type door struct {
	nodes []*corev1.Node
	pods  []*corev1.Pod
}

func (d *door) Do(_ context.Context, req *client.Request) (*client.Result, error) {
	out := &client.ListResult{}
	pick := func(o client.Object) {
		sel, field := req.Options.LabelSelector, req.Options.FieldSelector
		if field != nil {
			if name, _ := field.RequiresExactMatch("metadata.name"); name != o.GetName() {
				return
			}
		}
		if sel == nil || sel.Matches(labels.Set(o.GetLabels())) {
			out.Items = append(out.Items, o)
		}
	}
	for _, n := range d.nodes {
		if req.Verb == client.Get && n.Name == req.Name {
			return &client.Result{Object: n}, nil
		}
		if req.Resource.Resource == "nodes" {
			pick(n)
		}
	}
	for _, p := range d.pods {
		if req.Resource.Resource == "pods" && (req.Namespace == "" || req.Namespace == p.Namespace) {
			pick(p)
		}
	}
	return &client.Result{List: out}, nil
}

func (d *door) Watch(context.Context, *client.Request) (watch.Interface, error) {
	return nil, errors.New("not watched")
}

func pod(name string, phase corev1.PodPhase) *corev1.Pod {
	node, _, _ := strings.Cut(name, "-")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"pod": name}},
		Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
	}
}

func world() (*Source, *kubelets, *door) {
	k := &kubelets{began: map[string]time.Time{"a-1": time.Now(), "a-2": time.Now(), "b-1": time.Now()}, down: map[string]bool{}}
	d := &door{pods: []*corev1.Pod{pod("a-1", corev1.PodRunning), pod("a-2", corev1.PodSucceeded), pod("b-1", corev1.PodRunning)}}
	for _, name := range []string{"a", "b"} {
		d.nodes = append(d.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"node": name}}})
	}
	return New(Config{
		Door: d, Kubelets: &http.Client{Transport: k},
		Address: func(n *corev1.Node) (string, error) { return n.Name + ":10250", nil },
	}), k, d
}

func show(list corev1.ResourceList) string {
	cpu, memory := list["cpu"], list["memory"]
	return fmt.Sprintf("%dm %s", cpu.MilliValue(), memory.String())
}

func podNames(t *testing.T, s *Source, name string, sel labels.Selector) string {
	t.Helper()
	all, err := s.Pods(t.Context(), "ns", name, sel)
	if err != nil {
		t.Fatal(err)
	}
	for key, m := range all {
		if len(m.Containers) != 1 || show(m.Containers[0].Usage) != "100m 4Mi" && show(m.Containers[0].Usage) != "101m 4Mi" || m.Labels["pod"] != m.Name || m.Window.Duration <= 0 {
			t.Errorf("%s: %+v", key, m)
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(all)), " ")
}

func TestNodesAreMeasuredWhenAskedAndNotAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k, _ := world()
		ask := func() string {
			all, err := s.Nodes(t.Context(), "", nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, m := range all {
				if show(m.Usage) != "500m 64Mi" || m.Labels["node"] != name {
					t.Errorf("%s: %+v", name, m)
				}
			}
			return fmt.Sprint(strings.Join(slices.Sorted(maps.Keys(all)), " "), ", asked ", k.asked.Swap(0))
		}
		if got := ask(); got != "a b, asked 4" {
			t.Errorf("first: %s; a rate takes two readings of each", got)
		}
		if got := ask(); got != "a b, asked 0" {
			t.Errorf("at once again: %s", got)
		}
		time.Sleep(15 * time.Second)
		if got := ask(); got != "a b, asked 2" {
			t.Errorf("a little later: %s", got)
		}
		time.Sleep(time.Hour)
		k.down["b"] = true
		if got := ask(); got != "a, asked 3" {
			t.Errorf("much later, without b: %s", got)
		}
	})
}

func TestPodsAreMeasuredOfTheNodesThatRunThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k, d := world()
		time.Sleep(time.Minute)
		if got := podNames(t, s, "a-1", nil); got != "ns/a-1" || k.asked.Load() != 2 {
			t.Errorf("one: %q, asked %d", got, k.asked.Load())
		}
		if got := podNames(t, s, "", nil); got != "ns/a-1 ns/b-1" {
			t.Errorf("all that run: %q", got)
		}
		if got := podNames(t, s, "", labels.SelectorFromSet(labels.Set{"pod": "b-1"})); got != "ns/b-1" {
			t.Errorf("selected: %q", got)
		}
		// What has just started has no rate yet; what was made again under the
		// same name is another pod.
		time.Sleep(15 * time.Second)
		k.began["a-3"], k.began["b-1"] = time.Now(), time.Now()
		d.pods = append(d.pods, pod("a-3", corev1.PodRunning))
		if got := podNames(t, s, "", nil); got != "ns/a-1" {
			t.Errorf("two have just started: %q", got)
		}
		time.Sleep(15 * time.Second)
		if got := podNames(t, s, "", nil); got != "ns/a-1 ns/a-3 ns/b-1" {
			t.Errorf("seen twice: %q", got)
		}
		d.pods[0].Status.StartTime = &metav1.Time{Time: time.Now().Add(time.Second)}
		if got := podNames(t, s, "a-1", nil); got != "" {
			t.Errorf("another pod of the name: %q", got)
		}
	})
}

func TestManyAskersShareOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k, _ := world()
		for range 20 {
			go func() {
				if all, err := s.Nodes(t.Context(), "a", nil); err != nil || len(all) != 1 {
					t.Errorf("%v %v", all, err)
				}
			}()
		}
		time.Sleep(2 * time.Second)
		if n := k.asked.Load(); n != 2 {
			t.Errorf("the kubelet was asked %d times", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(time.Hour)
		if all, err := s.Nodes(ctx, "a", nil); err != nil || len(all) != 0 {
			t.Errorf("for one who has gone: %v %v", all, err)
		}
	})
}
