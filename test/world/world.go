// Package world is a cluster in memory for tests of safety: the real API
// server with its admission on an etcd without a disk, the real controllers
// behind doors that lose, refuse and delay, and kubelets with a mind of their
// own. A random seed comes in, a history goes out, every change of which a
// test may judge in the very order in which it was committed. It is made for
// testing/synctest: an hour of a cluster's life takes a moment.
package world

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/actions"
	"github.com/coxswain/cox/apiserver/admission/plugins"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/store"
)

// Change is one committed write.
type Change struct {
	Revision int64
	At       time.Time
	// Resource is the kind's prefix in etcd, such as "pods".
	Resource string
	// Old is nil where the object is new, New where it is gone. Both are the
	// model's own: read only.
	Old, New client.Object
	// Actor is who wrote, as Door was told.
	Actor string
}

// Object is what the change is about.
func (c *Change) Object() client.Object {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// World is a cluster. Its methods are safe for concurrent use.
type World struct {
	T    *testing.T
	Seed uint64
	// Root reads and writes with full rights and without faults.
	Root client.Interface
	Log  *slog.Logger

	server *apiserver.Server
	table  *api.Table
	faults *faults

	mu      sync.Mutex
	objects map[string]client.Object
	judges  []func(Change)
	history []string
	last    time.Time // of the last change that is no event
	failed  bool
}

// Namespace is where the histories play.
const Namespace = "here"

// Histories runs play in a world of its own for each of so many seeds, or as
// COX_HISTORIES and COX_SEED say: the first is the number of histories, the
// second the first seed. What fails names its seed.
func Histories(t *testing.T, n int, play func(w *World)) {
	t.Helper()
	first := uint64(1)
	if s := os.Getenv("COX_SEED"); s != "" {
		var err error
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("COX_SEED: %v", err)
		}
		n = 1
	}
	if s := os.Getenv("COX_HISTORIES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("COX_HISTORIES: %v", err)
		}
	}
	// What client-go logs of broken watches is no news here, and its brake on
	// errors remembers the time of the last one, which was in another bubble.
	handlers := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = nil
	t.Cleanup(func() { utilruntime.ErrorHandlers = handlers })
	for i := range uint64(n) {
		t.Run(fmt.Sprintf("seed=%d", first+i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(New(t, first+i)) })
			if t.Failed() {
				t.Logf("again: COX_SEED=%d go test -run '%s'", first+i, strings.Split(t.Name(), "/")[0])
			}
		})
	}
}

// New makes a world with one namespace, which ends with the test. Call it
// within a bubble of synctest.
func New(t *testing.T, seed uint64) *World {
	t.Helper()
	w := &World{T: t, Seed: seed, objects: map[string]client.Object{}, last: time.Now(),
		faults: &faults{rnd: rand.New(rand.NewPCG(seed, 2))}}
	level := slog.LevelError
	if os.Getenv("COX_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	w.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
	t.Cleanup(w.tell)
	table, err := builtin.With(builtin.Everything())
	w.Must(err)
	w.table = table
	st, err := store.New(store.Config{Backend: NewMemory(w.committed), Table: table, CompactEvery: -1, Log: w.Log,
		Mutated: func(text string) { t.Errorf("a shared object was changed: %s", text) }})
	w.Must(err)
	t.Cleanup(func() { st.CheckMutations(); _ = st.Close() })
	late := &struct{ client.Interface }{}
	w.Root = client.As(late, client.User{Name: "system:apiserver", Groups: []string{"system:masters", "system:authenticated"}})
	pods, ok := table.Resource(client.Pods.GroupVersionResource)
	if !ok {
		t.Fatal("the table has no pods")
	}
	w.server, err = apiserver.New(apiserver.Config{
		Table: table, Store: func(k *api.Kind) store.Interface { return st.Kind(k) }, Log: w.Log,
		Extensions: apiserver.Extensions{Actions: map[string]apiserver.ActionFunc{
			"pods/binding":  actions.Binding(st.Kind(pods.Kind), time.Now),
			"pods/eviction": actions.Eviction(w.Root, st.Kind(pods.Kind), time.Now),
		}},
	})
	w.Must(err)
	late.Interface = w.server.Door()
	// Service accounts are another story; pods here have none.
	chain, err := plugins.New(plugins.Config{Door: w.Root, Log: w.Log, Select: plugins.Selection{Disable: []string{"ServiceAccount"}}})
	w.Must(err)
	w.server.SetAdmission(chain)
	w.AddNamespace(Namespace)
	return w
}

// AddNamespace makes a namespace.
func (w *World) AddNamespace(name string) {
	w.T.Helper()
	_, err := client.Namespaces.In(w.Root, "").Create(w.T.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	w.Must(err)
}

type actorKey struct{}

// Door returns a door without faults whose writes carry an actor's name.
func (w *World) Door(actor string) client.Interface { return named{w.Root, actor} }

type named struct {
	client.Interface
	actor string
}

func (n named) Do(ctx context.Context, req *client.Request) (*client.Result, error) {
	return n.Interface.Do(context.WithValue(ctx, actorKey{}, n.actor), req)
}

// Must ends the test at an error.
func (w *World) Must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// Judge has f look at every change from now on, in order and before anyone
// else can see it. f must neither block nor call the API; it says what is
// wrong by Failf.
func (w *World) Judge(f func(c Change)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judges = append(w.judges, f)
}

// Failf says that the history is wrong, once; judges call it.
func (w *World) Failf(format string, args ...any) {
	if !w.failed {
		w.failed = true
		w.T.Errorf("seed %d at %s: %s", w.Seed, time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
		w.history = append(w.history, "WRONG: "+fmt.Sprintf(format, args...))
	}
}

func (w *World) committed(ctx context.Context, ev *clientv3.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := string(ev.Kv.Key)
	rest, ok := strings.CutPrefix(key, "/registry/")
	if !ok || strings.HasPrefix(rest, "events/") {
		return
	}
	resource, _, _ := strings.Cut(rest, "/")
	c := Change{Revision: ev.Kv.ModRevision, At: time.Now(), Resource: resource, Old: w.objects[key]}
	c.Actor, _ = ctx.Value(actorKey{}).(string)
	if ev.Type == clientv3.EventTypePut {
		if !bytes.HasPrefix(ev.Kv.Value, []byte("k8s\x00")) {
			return
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(ev.Kv.Value, nil, nil)
		if err != nil {
			w.T.Errorf("what was stored under %s: %v", key, err)
			return
		}
		c.New = obj.(client.Object)
		w.objects[key] = c.New
	} else {
		delete(w.objects, key)
	}
	w.last = c.At
	w.note(&c)
	for _, judge := range w.judges {
		judge(c)
	}
}

// Objects returns what there is of a kind, by its prefix in etcd. Judges must
// not call it; they have InJudge.
func Objects[T client.Object](w *World, resource string) []T {
	w.mu.Lock()
	defer w.mu.Unlock()
	return InJudge[T](w, resource)
}

// InJudge is Objects for judges.
func InJudge[T client.Object](w *World, resource string) []T {
	var out []T
	for key, o := range w.objects {
		if strings.HasPrefix(key, "/registry/"+resource+"/") {
			out = append(out, o.(T))
		}
	}
	return out
}

// Settle waits until nothing has changed for half an hour; a world that does
// not come to rest within a day fails.
func (w *World) Settle() {
	w.T.Helper()
	const quiet = 30 * time.Minute
	for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); {
		w.mu.Lock()
		left := quiet - time.Since(w.last)
		w.mu.Unlock()
		if left <= 0 {
			return
		}
		time.Sleep(left)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Failf("no rest within a day")
	w.T.FailNow()
}

// discovery lists the built-in kinds.
func (w *World) discovery(context.Context) ([]controllers.Resource, error) {
	var out []controllers.Resource
	for _, k := range w.table.Kinds {
		if k.Prefix != "" && len(k.Views) > 0 {
			out = append(out, controllers.Resource{
				GroupVersionResource: k.Views[0].GroupVersion().WithResource(k.Resource), Kind: k.Views[0].Kind, Namespaced: k.Namespaced, Verbs: k.Verbs,
			})
		}
	}
	return out, nil
}
