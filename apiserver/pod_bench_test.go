package apiserver_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/actions"
	"github.com/coxswain/cox/apiserver/admission/plugins"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/storetest"
)

// lateDoor is the server's door for what the server is made with.
type lateDoor struct{ client.Interface }

// whole is a server with all kinds, the default admission plugins and flow
// control, and one namespace with its account.
func whole(b *testing.B) *world {
	ctx := b.Context()
	table, err := builtin.New()
	if err != nil {
		b.Fatal(err)
	}
	st, _ := storetest.Start(b, table)
	pods, _ := table.Kind(client.Pods.GVK())
	late := &lateDoor{}
	user := client.User{Name: "system:apiserver", Groups: []string{"system:masters", "system:authenticated"}}
	root := client.As(late, user)
	log := slog.New(slog.DiscardHandler)
	turns := flow.New(flow.Config{Door: root, Log: log})
	b.Cleanup(turns.Close)
	w := &world{t: b, store: st}
	w.srv, err = apiserver.New(apiserver.Config{
		Table: table, Store: func(k *api.Kind) store.Interface { return st.Kind(k) }, Authz: rules{}, Flow: turns,
		Authn: authn.Func(func(*http.Request) (client.User, bool, error) { return tester, true, nil }), Log: log,
		Extensions: apiserver.Extensions{Actions: map[string]apiserver.ActionFunc{
			"pods/binding": actions.Binding(st.Kind(pods.Kind), time.Now),
		}},
	})
	if err != nil {
		b.Fatal(err)
	}
	late.Interface = w.srv.Door()
	chain, err := plugins.New(plugins.Config{Door: w.srv.Inside(user), Authz: rules{}, Log: log, Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	w.srv.SetAdmission(chain)
	w.local = client.As(w.srv.Door(), client.ServiceAccountUser("kube-system", "replicaset-controller"))
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	_, err = client.Namespaces.In(root, "").Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	must(err)
	_, err = client.ServiceAccounts.In(root, "default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	must(err)
	_, err = client.Nodes.In(root, "").Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	must(err)
	return w
}

func replica(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "default", Labels: map[string]string{"app": "web", "pod-template-hash": "5d4f"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: new(true), BlockOwnerDeletion: new(true)}},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image"}}},
	}
}

// BenchmarkReplica is a Deployment's pod through its life as the API server
// sees it: created and bound by components of its process, reported Running by
// a kubelet, deleted.
func BenchmarkReplica(b *testing.B) {
	bench := func(name string, step func(w *world, ctx context.Context, name string) error, before ...func(w *world, ctx context.Context, name string) error) {
		b.Run(name, func(b *testing.B) {
			w := whole(b)
			ctx := context.Background()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				name := fmt.Sprint("p", i)
				b.StopTimer()
				for _, f := range before {
					if err := f(w, ctx, name); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				if err := step(w, ctx, name); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	create := func(w *world, ctx context.Context, name string) error {
		_, err := client.Pods.In(w.local, "default").Create(ctx, replica(name))
		return err
	}
	bind := func(w *world, ctx context.Context, name string) error {
		_, err := client.Pods.In(w.local, "default").CreateSub(ctx, name, "binding", &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"},
		})
		return err
	}
	run := func(w *world, ctx context.Context, name string) error {
		const status = `{"status":{"phase":"Running","podIP":"10.1.1.1","podIPs":[{"ip":"10.1.1.1"}],"conditions":[{"type":"Ready","status":"True"}],` +
			`"containerStatuses":[{"name":"c","ready":true,"started":true,"image":"i","imageID":"i","restartCount":0,"state":{"running":{}}}]}}`
		_, err := client.Pods.In(w.local, "default").Patch(ctx, name, types.StrategicMergePatchType, []byte(status), client.Sub("status"))
		return err
	}
	remove := func(w *world, ctx context.Context, name string) error {
		return client.Pods.In(w.local, "default").Delete(ctx, name, client.Options{GracePeriodSeconds: new(int64)})
	}
	bench("create", create)
	bench("bind", bind, create)
	bench("run", run, create, bind)
	bench("delete", remove, create, bind, run)
}
