// Package kubelet_test runs the kubelet on the real things: an API server on
// etcd in this process, containerd and a pod network of the test's own.
package kubelet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/actions"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/apiserver/tokens"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/cni"
	"github.com/coxswain/cox/internal/mountinfo"
	"github.com/coxswain/cox/kubelet"
	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/runtimetest"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/storetest"
)

const nodeName = "node-1"

// podRange is where the pods' addresses are from: wider for a crowd.
func podRange() netip.Prefix {
	if *crashing > 200 {
		return netip.MustParsePrefix("10.244.80.0/20")
	}
	return netip.MustParsePrefix("10.244.77.0/24")
}

// world is one node with everything below and above its kubelet.
type world struct {
	t       testing.TB
	root    client.Interface
	rt      *runtime.Runtime
	rtCfg   runtime.Config
	dir     string
	static  string
	kubelet *kubelet.Kubelet
	stop    func()
	log     *slog.Logger
	change  func(*kubelet.Config) // before a kubelet starts, nil for nothing
	// patience is how long until waits.
	patience time.Duration
}

var admin = client.User{Name: "admin", Groups: []string{"system:masters"}}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, rtCfg: runtimetest.Config(t), dir: t.TempDir(), patience: time.Minute}
	level := slog.LevelInfo
	if os.Getenv("COX_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	w.log = slog.New(slog.NewTextHandler(&testLog{t: t}, &slog.HandlerOptions{Level: level}))
	w.static = filepath.Join(w.dir, "manifests")
	w.startAPI()
	w.startRuntime()
	w.startKubelet()
	return w
}

// testLog drops what is logged after the end of the test.
type testLog struct {
	mu sync.Mutex
	t  testing.TB
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.t.Output().Write(b)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// startAPI starts etcd and the API server, without authorization: the Node
// authorizer has tests of its own.
func (w *world) startAPI() {
	t := w.t
	table, err := builtin.With(builtin.Everything())
	w.must(err)
	st, _ := storetest.Start(t, table)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	issuer, err := satoken.NewIssuer("https://kubernetes.default.svc", key)
	w.must(err)
	late := &lateDoor{}
	root := client.As(late, admin)
	ext := apiserver.Extensions{Hooks: map[schema.GroupResource]apiserver.Hook{}, Actions: map[string]apiserver.ActionFunc{}}
	audiences := []string{issuer.URL()}
	for name, a := range tokens.Actions(tokens.Config{Issuer: issuer, Audiences: audiences, Door: root, Tokens: authn.NewServiceAccounts(issuer, audiences, root, time.Now), Now: time.Now}) {
		ext.Actions[name] = a
	}
	pods, _ := table.Resource(client.Pods.GroupVersionResource)
	ext.Actions["pods/binding"] = actions.Binding(st.Kind(pods.Kind), time.Now)
	srv, err := apiserver.New(apiserver.Config{
		Table: table, Store: func(k *api.Kind) store.Interface { return st.Kind(k) }, Extensions: ext, Log: w.log,
	})
	w.must(err)
	late.Interface = srv.Door()
	w.root = root
	ctx := t.Context()
	w.must(actions.Bootstrap(ctx, root, actions.BootstrapConfig{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, Port: 6443,
	}))
	_, err = client.ServiceAccounts.In(root, "default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}})
	w.must(err)
}

type lateDoor struct{ client.Interface }

func (w *world) startRuntime() {
	t := w.t
	id := strings.TrimPrefix(w.rtCfg.CgroupRoot, "/")
	conf := cni.Conf{
		Name: id, PodCIDRs: []netip.Prefix{podRange()}, StateDir: filepath.Join(w.dir, "cni"),
	}
	w.rtCfg.CNIConfDir = filepath.Join(w.dir, "net.d")
	w.must(cni.Setup(conf))
	t.Cleanup(func() {
		if err := cni.Purge(conf); err != nil {
			t.Error(err)
		}
	})
	w.must(cni.WriteConfig(w.rtCfg.CNIConfDir, conf))
	rt, err := runtime.Start(t.Context(), w.rtCfg)
	if err != nil {
		t.Fatal(err)
	}
	w.rt = rt
	t.Cleanup(func() { rt.Close() })
	runtimetest.Import(t, rt)
	// Before the runtime goes, its pods do, and what the kubelet mounted.
	t.Cleanup(func() {
		if w.stop != nil {
			w.stop()
		}
		if t.Failed() {
			w.dump()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := rt.StopPods(ctx); err != nil {
			t.Error(err)
		}
		if err := mountinfo.UnmountBelow(w.dir); err != nil {
			t.Error(err)
		}
	})
}

// dump says what the API knows, to understand a failure.
func (w *world) dump() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	pods, _, _ := client.Pods.In(w.root, "").List(ctx, client.Options{})
	for _, p := range pods {
		b, _ := yaml.Marshal(p.Status)
		w.t.Logf("pod %s: deleted %v\n%s", p.Name, p.DeletionTimestamp, b)
	}
	for _, e := range w.events("") {
		w.t.Log(e)
	}
}

// events returns what was told about an object ("" for any).
func (w *world) events(name string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	evs, _, _ := client.Events.In(w.root, "").List(ctx, client.Options{})
	var out []string
	for _, e := range evs {
		if name == "" || e.InvolvedObject.Name == name {
			out = append(out, fmt.Sprintf("%s %s %s: %s", e.Type, e.Reason, e.InvolvedObject.FieldPath, e.Message))
		}
	}
	return out
}

// untilEvent waits for an event about a pod that has a text.
func (w *world) untilEvent(name, text string) {
	w.t.Helper()
	for range 400 {
		if hasEvent(w, name, text) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatalf("no event of %s says %q: %q", name, text, w.events(name))
}

func (w *world) startKubelet() {
	t := w.t
	cri, images := w.rt.CRI()
	cfg := kubelet.Config{
		Client:   client.As(w.root, client.User{Name: "system:node:" + nodeName, Groups: []string{"system:nodes"}}),
		NodeName: nodeName, NodeIPs: []string{podRange().Addr().Next().String()},
		RootDir: filepath.Join(w.dir, "kubelet"), LogDir: filepath.Join(w.dir, "logs"),
		Runtime: cri, Images: images, StaticPodDir: w.static, CgroupRoot: w.rtCfg.CgroupRoot, Log: w.log,
		ClusterDNS: []string{"10.43.0.10"},
		DefaultPod: func(p *corev1.Pod) { podspec.Default(&p.Spec) },
		// How full the disk of this machine is shall decide nothing here.
		Eviction: kubelet.Eviction{Thresholds: []kubelet.Threshold{{Signal: kubelet.SignalMemory, Limit: kubelet.Amount{Quantity: 100 << 20}}}},
		ImageGC:  kubelet.ImageGC{High: 100, Low: 99},
	}
	if w.change != nil {
		w.change(&cfg)
	}
	k, err := kubelet.New(cfg)
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	w.kubelet = k
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("kubelet: %v", err)
		}
		w.stop = nil
	}
	select {
	case <-k.Ready():
	case err := <-done:
		t.Fatalf("kubelet ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the node did not become ready")
	}
}

// pod parses a pod, gives it to this node and creates it.
func (w *world) pod(manifest string) *corev1.Pod {
	w.t.Helper()
	return w.podOn(nodeName, manifest)
}

// podOn is pod for any node; "" leaves the choice to a scheduler.
func (w *world) podOn(node, manifest string) *corev1.Pod {
	w.t.Helper()
	p := &corev1.Pod{}
	w.must(yaml.UnmarshalStrict([]byte(manifest), p))
	p.Namespace, p.Spec.NodeName, p.Spec.ServiceAccountName = "default", node, "default"
	out, err := client.Pods.In(w.root, "default").Create(w.t.Context(), p)
	w.must(err)
	return out
}

// until waits for a pod to be as wanted; nil stands for a pod that is gone.
func (w *world) until(name, what string, want func(p *corev1.Pod) bool) *corev1.Pod {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), w.patience)
	defer cancel()
	pods := client.Pods.In(w.root, "default")
	sel := fields.OneTermEqualSelector("metadata.name", name)
	items, rv, err := pods.List(ctx, client.Options{FieldSelector: sel})
	w.must(err)
	var cur *corev1.Pod
	if len(items) > 0 {
		cur = items[0]
	}
	if want(cur) {
		return cur
	}
	wi, err := pods.Watch(ctx, client.Options{FieldSelector: sel, ResourceVersion: rv})
	w.must(err)
	defer wi.Stop()
	for e := range wi.ResultChan() {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		if e.Type == watch.Deleted {
			p = nil
		}
		if want(p) {
			return p
		}
	}
	w.t.Fatalf("pod %s: waited in vain for it to be %s", name, what)
	return nil
}

func (w *world) delete(name string, grace int64) {
	w.t.Helper()
	w.must(client.Pods.In(w.root, "default").Delete(w.t.Context(), name, client.Options{GracePeriodSeconds: &grace}))
}

func gone(p *corev1.Pod) bool { return p == nil }

func isReady(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func inPhase(phase corev1.PodPhase) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == phase }
}

func waiting(container, reason string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		if p == nil {
			return false
		}
		for _, c := range append(p.Status.ContainerStatuses, p.Status.InitContainerStatuses...) {
			if c.Name == container && c.State.Waiting != nil && c.State.Waiting.Reason == reason {
				return true
			}
		}
		return false
	}
}

// empty waits until the kubelet has nothing left of any pod.
func (w *world) empty() {
	w.t.Helper()
	var left []os.DirEntry
	for range 200 {
		if left, _ = os.ReadDir(filepath.Join(w.dir, "kubelet", "pods")); len(left) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Errorf("left behind: %v", left)
}

// podLog returns what a container's instance has written.
func (w *world) podLog(p *corev1.Pod, container string, attempt int) string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "logs", p.Namespace+"_"+p.Name+"_"+string(p.UID), container, fmt.Sprint(attempt)+".log"))
	w.must(err)
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
			out.WriteString(parts[3])
		}
	}
	return out.String()
}

// logSays waits for a container's log to hold all of some texts, and returns
// it. The runtime copies what a container wrote on its own: that it runs, or
// its end, may be known before its lines are in the file.
func (w *world) logSays(p *corev1.Pod, container string, attempt int, want ...string) string {
	w.t.Helper()
	got := ""
	lacks := func(text string) bool { return !strings.Contains(got, text) }
	for range 400 {
		if got = w.podLog(p, container, attempt); !slices.ContainsFunc(want, lacks) {
			return got
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Errorf("the log of %s/%s: %q, want %q", p.Name, container, got, want)
	return got
}

// eventually waits until something is so.
func (w *world) eventually(what string, so func() bool) {
	w.t.Helper()
	for range 400 {
		if so() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatalf("waited in vain: %s", what)
}

// containerFile reads a file of the cgroup of a pod's first container.
func (w *world) containerFile(p *corev1.Pod, controller, name string) string {
	w.t.Helper()
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	var b []byte
	for _, mount := range []string{"/sys/fs/cgroup/" + controller, "/sys/fs/cgroup"} {
		var err error
		if b, err = os.ReadFile(filepath.Join(mount, w.kubelet.ContainerGroup(p, id), name)); err == nil {
			return string(b)
		}
	}
	w.t.Errorf("the container's cgroup has no file %s", name)
	return ""
}
