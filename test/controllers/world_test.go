// Package controllers_test runs all controllers against a real API server on
// etcd in this process, each under its own identity and RBAC. Only the
// kubelets are hollow: they accept pods and run nothing.
package controllers_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/actions"
	"github.com/coxswain/cox/apiserver/admission/plugins"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/escalation"
	"github.com/coxswain/cox/apiserver/authz/rbac"
	"github.com/coxswain/cox/apiserver/authz/review"
	"github.com/coxswain/cox/apiserver/rbacdefaults"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/certificates"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/controllers/nodelifecycle"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/storetest"
)

// world is a control plane without scheduler and kubelets.
type world struct {
	etcd     store.Backend
	services *actions.Services
	t        *testing.T
	root     client.Interface
	server   *apiserver.Server
	bundle   *pki.Bundle
	log      *slog.Logger
}

// patience bounds every wait; nothing here is timed.
const patience = 60 * time.Second

type testLog struct {
	mu sync.Mutex
	t  *testing.T
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.t.Output().Write(b)
}

type lateDoor struct{ client.Interface }

func newWorld(t *testing.T, change ...func(*manager.Config)) *world {
	t.Helper()
	level := slog.LevelInfo
	if os.Getenv("COX_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	w := &world{t: t, log: slog.New(slog.NewTextHandler(&testLog{t: t}, &slog.HandlerOptions{Level: level}))}
	dir := t.TempDir()
	table, err := builtin.With(builtin.Everything())
	w.must(err)
	st, e := storetest.Start(t, table)
	w.bundle, err = pki.Ensure(filepath.Join(dir, "pki"), pki.Config{})
	w.must(err)

	late := &lateDoor{}
	w.root = client.As(late, client.User{Name: "system:apiserver", Groups: []string{"system:masters", "system:authenticated"}})
	roles := rbac.New()
	auth := authz.Union(authz.Masters(), roles)
	ext := apiserver.Extensions{Hooks: escalation.Hooks(roles, auth), Actions: review.Actions(auth)}
	w.etcd = e
	services := actions.NewServices(actions.ServiceConfig{
		CIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, NodePortBase: 30000, NodePortSize: 2768,
		Loopback: w.root, Ranges: st.Kind(actions.RangeKind()), Log: w.log,
	})
	w.services = services
	ext.Hooks[schema.GroupResource{Resource: "services"}] = services.Hook()
	ext.Hooks[schema.GroupResource{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}] = actions.CertificateRequests()
	podKind, ok := table.Resource(client.Pods.GroupVersionResource)
	if !ok {
		t.Fatal("the table has no pods")
	}
	ext.Actions["pods/binding"] = actions.Binding(st.Kind(podKind.Kind), time.Now)
	w.server, err = apiserver.New(apiserver.Config{
		Table: table, Store: func(k *api.Kind) store.Interface { return st.Kind(k) }, Authz: auth, Extensions: ext, Log: w.log,
	})
	w.must(err)
	late.Interface = w.server.Door()
	chain, err := plugins.New(plugins.Config{Door: w.root, Authz: auth, Log: w.log, Now: time.Now})
	w.must(err)
	w.server.SetAdmission(chain)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		if t.Failed() {
			w.dump()
		}
		cancel()
		running.Wait()
	})
	running.Go(func() { roles.Run(ctx, w.root) })
	policy, err := rbacdefaults.Default("StorageVersionMigrator")
	w.must(err)
	policy.Aggregate()
	revisions, err := rbacdefaults.Reconcile(ctx, w.root, policy)
	w.must(err)
	w.must(roles.Caught(ctx, revisions))
	w.must(actions.Bootstrap(ctx, w.root, actions.BootstrapConfig{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, Port: 6443,
	}))
	w.must(services.Repair(ctx, w.root))

	cfg := manager.Config{
		ClientFor: w.account,
		Informers: client.NewInformers(entitled{client.As(w.server.Door(), client.User{Name: "system:kube-controller-manager", Groups: []string{"system:authenticated"}}), t}),
		Discovery: func(context.Context) ([]controllers.Resource, error) {
			var out []controllers.Resource
			for _, k := range table.Kinds {
				if k.Prefix != "" && len(k.Views) > 0 {
					out = append(out, controllers.Resource{GroupVersionResource: k.Views[0].GroupVersion().WithResource(k.Resource), Kind: k.Views[0].Kind, Namespaced: k.Namespaced, Verbs: k.Verbs})
				}
			}
			return out, nil
		},
		RootCA:       w.bundle.CA.PEM(),
		Signing:      certificates.Config{ClientCA: w.bundle.CA, KubeletCA: w.bundle.CA, ServingCA: w.bundle.CA},
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		Nodes:        nodelifecycle.Defaults(),
		Log:          w.log,
	}
	for _, f := range change {
		f(&cfg)
	}
	running.Go(func() {
		if err := manager.Run(ctx, cfg); err != nil && ctx.Err() == nil {
			t.Errorf("controllers: %v", err)
		}
	})
	running.Go(func() { w.hollowKubelets(ctx) })
	return w
}

func (w *world) account(name string) client.Interface {
	return entitled{client.As(w.server.Door(), client.ServiceAccountUser("kube-system", name)), w.t}
}

// entitled fails the test when a controller asks for what its role does not
// allow: whatever a test is about, it shows too that the default roles suffice.
type entitled struct {
	client.Interface
	t *testing.T
}

func (e entitled) check(err error) {
	// Quotas and namespaces that end forbid too, in other words.
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "User \"system:") {
		e.t.Errorf("the role is too small: %v", err)
	}
}

func (e entitled) Do(ctx context.Context, req *client.Request) (*client.Result, error) {
	res, err := e.Interface.Do(ctx, req)
	e.check(err)
	return res, err
}

func (e entitled) Watch(ctx context.Context, req *client.Request) (watch.Interface, error) {
	w, err := e.Interface.Watch(ctx, req)
	e.check(err)
	return w, err
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// dump tells what happened, to understand a failure.
func (w *world) dump() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	evs, _, _ := client.Events.In(w.root, "").List(ctx, client.Options{})
	for _, e := range evs {
		w.t.Logf("%s/%s %s %s: %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Type, e.Reason, e.Message)
	}
	ps, _, _ := client.Pods.In(w.root, "").List(ctx, client.Options{})
	for _, p := range ps {
		w.t.Logf("pod %s/%s: %s ready=%v deleted=%v finalizers=%v owners=%v", p.Namespace, p.Name, p.Status.Phase, pods.Ready(p), p.DeletionTimestamp, p.Finalizers, p.OwnerReferences)
	}
}

// hollowKubelets does to every pod what a scheduler and a kubelet would: it
// gives it a node and an address, makes it ready at once (unless its image is
// "bad"), ends it when its image is "done" or "fail", and lets it go when it
// is deleted.
func (w *world) hollowKubelets(ctx context.Context) {
	n := 0
	for ctx.Err() == nil {
		wi, err := client.Pods.In(w.root, "").Watch(ctx, client.Options{})
		if err != nil {
			continue
		}
		for e := range wi.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok || e.Type == watch.Deleted {
				continue
			}
			n++
			w.hollow(ctx, p, n)
		}
	}
}

func (w *world) hollow(ctx context.Context, p *corev1.Pod, n int) {
	res := client.Pods.In(w.root, p.Namespace)
	zero := int64(0)
	if p.DeletionTimestamp != nil {
		_ = res.Delete(ctx, p.Name, client.Options{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID}})
		return
	}
	image := p.Spec.Containers[0].Image
	if p.Status.PodIP != "" || image == "bad" || p.Labels["hollow"] == "no" {
		return
	}
	_, _ = res.Mutate(ctx, p.Name, "status", func(p *corev1.Pod) (bool, error) {
		if p.Status.PodIP != "" || p.DeletionTimestamp != nil {
			return false, nil
		}
		ip := fmt.Sprintf("10.42.%d.%d", n/250, n%250+1)
		p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		now := metav1.Now()
		p.Status.StartTime = &now
		ready := corev1.ConditionTrue
		switch image {
		case "done":
			p.Status.Phase, ready = corev1.PodSucceeded, corev1.ConditionFalse
		case "fail":
			p.Status.Phase, ready = corev1.PodFailed, corev1.ConditionFalse
		default:
			p.Status.Phase = corev1.PodRunning
		}
		pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: ready, LastTransitionTime: now})
		return true, nil
	})
}

// eventually waits until what a kind's objects of a namespace are satisfies
// want, and looks again at every change.
func eventually[T client.Object](w *world, k client.Kind[T], ns, what string, want func([]T) bool) []T {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	var last []T
	for ctx.Err() == nil {
		items, rv, err := k.In(w.root, ns).List(ctx, client.Options{})
		if err != nil {
			break
		}
		if last = items; want(items) {
			return items
		}
		wi, err := k.In(w.root, ns).Watch(ctx, client.Options{ResourceVersion: rv})
		if err != nil {
			break
		}
		<-wi.ResultChan()
		wi.Stop()
	}
	for _, o := range last {
		w.t.Logf("%+v", o)
	}
	w.t.Fatalf("waited in vain for %s in %q to be: %s", k.Resource, ns, what)
	return nil
}

// object waits until one object is as wanted; the zero T stands for none.
func object[T client.Object](w *world, k client.Kind[T], ns, name, what string, want func(T) bool) T {
	w.t.Helper()
	var out T
	eventually(w, k, ns, name+" "+what, func(items []T) bool {
		var cur T
		for _, o := range items {
			if o.GetName() == name {
				cur = o
			}
		}
		out = cur
		return want(cur)
	})
	return out
}

func (w *world) namespace(name string) string {
	w.t.Helper()
	_, err := client.Namespaces.In(w.root, "").Create(w.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	w.must(err)
	object(w, client.ServiceAccounts, name, "default", "made", func(sa *corev1.ServiceAccount) bool { return sa != nil })
	return name
}
