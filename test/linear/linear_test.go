package linear

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/test/apiproc"
)

var (
	rounds  = flag.Int("linear.rounds", 2, "how often the server is killed")
	pause   = flag.Duration("linear.pause", 700*time.Millisecond, "how long it runs each time, at most")
	objects = flag.Int("linear.objects", 12, "how many objects all write to")
)

func TestMain(m *testing.M) {
	if apiproc.Main() {
		return
	}
	os.Exit(m.Run())
}

const (
	writers  = 64
	readers  = 16
	watchers = 16
	ns       = "default"
)

// recorder writes a history down.
type recorder struct {
	begin time.Time
	count atomic.Int64
	mu    sync.Mutex
	h     History
	// What was seen last of each object, for writes that name a version.
	known map[string]int64
}

func (r *recorder) now() time.Duration { return time.Since(r.begin) }

func (r *recorder) add(op Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Ops = append(r.h.Ops, op)
	if op.Revision > r.known[op.Key] {
		r.known[op.Key] = op.Revision
	}
}

func (r *recorder) last(key string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[key]
}

func revision(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func configMap(key, value string, prev int64) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: key}, Data: map[string]string{"v": value}}
	if prev > 0 {
		m.ResourceVersion = fmt.Sprint(prev)
	}
	return m
}

// outcome reads an error: what is neither a clear yes nor a clear no is
// unknown.
func outcome(err error) Outcome {
	switch {
	case err == nil:
		return OK
	case apierrors.IsNotFound(err):
		return NotFound
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return Conflict
	}
	return Unknown
}

// do carries an operation out and writes it down.
func (r *recorder) do(ctx context.Context, door client.Interface, op Op) Outcome {
	in := client.ConfigMaps.In(door, ns)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var got *corev1.ConfigMap
	var err error
	op.Start = r.now()
	switch op.Kind {
	case Create:
		got, err = in.Create(ctx, configMap(op.Key, op.Value, 0))
	case Update:
		got, err = in.Update(ctx, configMap(op.Key, op.Value, op.Prev))
	case Patch:
		got, err = in.Patch(ctx, op.Key, types.MergePatchType, []byte(`{"data":{"v":"`+op.Value+`"}}`))
	case Delete:
		rv := fmt.Sprint(op.Prev)
		err = in.Delete(ctx, op.Key, client.Options{Preconditions: &metav1.Preconditions{ResourceVersion: &rv}})
	case Read:
		got, err = in.Get(ctx, op.Key)
	}
	op.End, op.Outcome = r.now(), outcome(err)
	if err == nil && got != nil {
		op.Revision = revision(got.ResourceVersion)
		op.Value = got.Data["v"]
	}
	r.add(op)
	return op.Outcome
}

func (r *recorder) write(ctx context.Context, door client.Interface) {
	for ctx.Err() == nil {
		key := fmt.Sprint("o", rand.N(*objects))
		op := Op{Key: key, Value: fmt.Sprint("v", r.count.Add(1)), Prev: r.last(key)}
		switch n := rand.N(10); {
		case n < 2 || op.Prev == 0:
			op.Kind = Create
		case n < 6:
			op.Kind = Update
		case n < 9:
			op.Kind = Patch
		default:
			op.Kind, op.Value = Delete, ""
		}
		if r.do(ctx, door, op) == Unknown {
			nap(ctx) // the server is away
		}
	}
}

func (r *recorder) read(ctx context.Context, door client.Interface) {
	for ctx.Err() == nil {
		if r.do(ctx, door, Op{Key: fmt.Sprint("o", rand.N(*objects)), Kind: Read}) == Unknown {
			nap(ctx)
		}
	}
}

// nap keeps those who find the server away from asking without pause.
func nap(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}

// follow watches, resuming where it was, until it has seen the object last. A
// server that has just started knows no changes of before: the watcher is told
// so, lists, and begins a new stream.
func (r *recorder) follow(ctx context.Context, door client.Interface, from string, last string) error {
	in := client.ConfigMaps.In(door, ns)
	s := Stream{Start: revision(from)}
	at := s.Start
	end := func() {
		r.mu.Lock()
		r.h.Streams = append(r.h.Streams, s)
		r.mu.Unlock()
	}
	defer func() { end() }()
	for ctx.Err() == nil {
		expired := false
		w, err := in.Watch(ctx, client.Options{ResourceVersion: fmt.Sprint(at), AllowWatchBookmarks: true})
		if err == nil {
			var done bool
			done, expired = s.take(w, &at, last)
			w.Stop()
			if done {
				return nil
			}
		} else {
			expired = apierrors.IsResourceExpired(err)
			nap(ctx)
		}
		if !expired {
			continue
		}
		list, newest, err := in.List(ctx, client.Options{})
		if err != nil {
			continue // and find that it is still expired
		}
		end()
		s = Stream{Start: revision(newest)}
		at = s.Start
		for _, m := range list {
			r.add(Op{Key: m.Name, Kind: Read, Value: m.Data["v"], Revision: revision(m.ResourceVersion), Start: 0, End: never})
			if m.Name == last {
				return nil
			}
		}
	}
	return ctx.Err()
}

// take writes down what a watch tells, until it ends or has told of the object
// last.
func (s *Stream) take(w watch.Interface, at *int64, last string) (done, expired bool) {
	for ev := range w.ResultChan() {
		if ev.Type == watch.Error {
			return false, apierrors.IsResourceExpired(apierrors.FromObject(ev.Object))
		}
		m := ev.Object.(*corev1.ConfigMap)
		*at = revision(m.ResourceVersion)
		if ev.Type == watch.Bookmark {
			continue
		}
		s.Events = append(s.Events, Event{EventType(ev.Type), m.Name, m.Data["v"], *at})
		if m.Name == last {
			return true, false
		}
	}
	return false, false
}

// 64 writers, 16 readers and 16 watchers use a server that is killed at random
// and started again: what they saw is linearizable, and no watcher missed,
// repeated or reordered anything.
func TestLinearizable(t *testing.T) {
	dir := t.TempDir()
	p := apiproc.New(t, dir)
	linearizable(t, func() string {
		p.Kill()
		url, end := apiproc.EtcdIn(t, filepath.Join(dir, "etcd"))
		t.Cleanup(end)
		return url
	}, p)
}

// And so are two servers on one etcd, either of which is killed at random.
func TestLinearizableServers(t *testing.T) {
	url, dir := apiproc.Etcd(t), t.TempDir()
	linearizable(t, func() string { return url }, apiproc.New(t, dir, url), apiproc.New(t, dir, url))
}

// linearizable tries servers on one etcd, which is at the address etcd returns
// in the end.
func linearizable(t *testing.T, etcd func() string, servers ...*apiproc.Proc) {
	for _, p := range servers {
		p.Start()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(*rounds)*time.Minute)
	defer cancel()
	next := 0
	door := func() client.Interface { // of each server in turn
		next++
		d, err := client.Remote(servers[next%len(servers)].Config())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	doors := make([]client.Interface, len(servers))
	for i := range doors {
		doors[i] = door()
	}
	first := doors[0]
	if _, err := client.Namespaces.In(first, "").Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	_, from, err := client.ConfigMaps.In(first, ns).List(ctx, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{begin: time.Now(), known: map[string]int64{}}
	working, stop := context.WithCancel(ctx)
	defer stop()
	var work, watching sync.WaitGroup
	for i := range writers {
		d := doors[i%len(doors)]
		if i%8 == 0 {
			d = door()
		}
		work.Go(func() { r.write(working, d) })
	}
	for i := range readers {
		work.Go(func() { r.read(working, doors[i%len(doors)]) })
	}
	errs := make(chan error, watchers)
	for range watchers {
		d := door()
		watching.Go(func() { errs <- r.follow(ctx, d, from, "last") })
	}
	for range *rounds {
		time.Sleep(*pause/4 + rand.N(*pause)) // the moment is random: nothing is waited for
		p := servers[rand.IntN(len(servers))]
		t.Logf("killed at %v", r.now())
		p.Kill()
		p.Start()
		t.Logf("started at %v", r.now())
	}
	time.Sleep(*pause / 2)
	stop()
	work.Wait()
	for n := 0; r.do(ctx, first, Op{Key: "last", Kind: Create, Value: fmt.Sprint("end", n)}) == Unknown; n++ {
		if nap(ctx); ctx.Err() != nil || n == 100 { // connections of before may have yet to be found dead
			t.Fatalf("the server does not answer in the end\n%s", servers[0].Stderr())
		}
	}
	watching.Wait()
	for i := range *objects {
		for r.do(ctx, first, Op{Key: fmt.Sprint("o", i), Kind: Read}) == Unknown && ctx.Err() == nil {
			nap(ctx)
		}
	}
	for range watchers {
		if err := <-errs; err != nil && !errors.Is(err, context.Canceled) {
			t.Error("a watcher ended:", err)
		}
	}
	r.h.Log = stored(t, etcd())
	if err := r.h.Check(); err != nil {
		t.Error(err)
		r.dump(t, err)
	}
	counts := map[Outcome]int{}
	for _, op := range r.h.Ops {
		counts[op.Outcome]++
	}
	t.Logf("%d operations: %d done, %d refused, %d not answered; %d events for each watcher", len(r.h.Ops), counts[OK],
		counts[Conflict]+counts[NotFound], counts[Unknown], len(r.h.Streams[0].Events))
	if counts[OK] < writers || counts[Conflict] == 0 {
		t.Errorf("too little happened: %v", counts)
	}
}

// stored is every change of the objects that etcd has stored.
func stored(t *testing.T, url string) (log []Event) {
	const prefix = "/registry/configmaps/" + ns + "/"
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	now, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	end := int64(0)
	for _, kv := range now.Kvs {
		end = max(end, kv.ModRevision) // the last write was a creation
	}
	before := map[string]string{}
	for resp := range c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.Events {
			ev := Event{Type: Modified, Key: strings.TrimPrefix(string(e.Kv.Key), prefix), Revision: e.Kv.ModRevision}
			if e.IsCreate() {
				ev.Type = Added
			}
			if e.Type == clientv3.EventTypeDelete {
				ev.Type, ev.Value = Deleted, before[ev.Key]
			} else {
				ev.Value = value(t, e.Kv.Value)
			}
			before[ev.Key] = ev.Value
			log = append(log, ev)
		}
		if len(log) > 0 && log[len(log)-1].Revision >= end {
			return log
		}
	}
	t.Fatalf("etcd's log ends before revision %d: %v", end, ctx.Err())
	return nil
}

// value is what a stored ConfigMap holds.
func value(t *testing.T, stored []byte) string {
	var wrapped runtime.Unknown
	var m corev1.ConfigMap
	err := wrapped.Unmarshal(bytes.TrimPrefix(stored, []byte("k8s\x00")))
	if err == nil {
		err = m.Unmarshal(wrapped.Raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.Data["v"]
}

// dump shows what happened to the object that an error names, so that the
// cause of a violation can be found.
func (r *recorder) dump(t *testing.T, err error) {
	var key string
	if n, _ := fmt.Sscanf(err.Error(), "object %s", &key); n != 1 {
		return
	}
	key = strings.TrimSuffix(key, ":")
	slices.SortFunc(r.h.Ops, func(a, b Op) int { return int(a.Start - b.Start) })
	for _, op := range r.h.Ops {
		if op.Key == key {
			t.Logf("%10v %10v  kind %d outcome %d  prev %d revision %d %s", op.Start, op.End, op.Kind, op.Outcome, op.Prev, op.Revision, op.Value)
		}
	}
}
