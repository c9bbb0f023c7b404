package store

import (
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// watchers are the open watches of a kind, filed under what they select, so
// that a change meets only those that may care: a kubelet's watch of its
// node's pods lies under the node's name.
type watchers struct {
	all       bucket
	namespace map[string]*bucket            // by "namespace/"
	key       map[string]*bucket            // by key
	field     map[string]map[string]*bucket // by a field's name and value
}

// bucket is a set of watchers that know their places in it.
type bucket struct {
	list []*watcher
	free func() // called when it becomes empty
}

func (b *bucket) add(w *watcher) {
	w.at, w.pos = b, len(b.list)
	b.list = append(b.list, w)
}

func (ws *watchers) remove(w *watcher) {
	b := w.at
	if b == nil {
		return
	}
	last := len(b.list) - 1
	b.list[w.pos] = b.list[last]
	b.list[w.pos].pos = w.pos
	b.list[last] = nil
	b.list = b.list[:last]
	w.at = nil
	if last == 0 && b.free != nil {
		b.free()
	}
}

func in(m map[string]*bucket, k string) *bucket {
	b, ok := m[k]
	if !ok {
		b = &bucket{free: func() { delete(m, k) }}
		m[k] = b
	}
	return b
}

// add files a watcher.
func (ws *watchers) add(w *watcher) {
	if ws.key == nil {
		ws.key, ws.namespace, ws.field = map[string]*bucket{}, map[string]*bucket{}, map[string]map[string]*bucket{}
	}
	kind := w.c.d.kind
	prefix := w.prefix
	if f := w.pred.Field; f != nil && !f.Empty() {
		if kind.Namespaced && prefix == "" {
			if ns, ok := f.RequiresExactMatch("metadata.namespace"); ok {
				prefix = ns + "/"
			}
		}
		if name, ok := f.RequiresExactMatch("metadata.name"); ok && (prefix != "" || !kind.Namespaced) {
			in(ws.key, prefix+name).add(w)
			return
		}
		for _, name := range kind.FieldNames {
			if !w.own || prefix != "" {
				break
			}
			if value, ok := f.RequiresExactMatch(name); ok {
				values := ws.field[name]
				if values == nil {
					values = map[string]*bucket{}
					ws.field[name] = values
				}
				in(values, value).add(w)
				return
			}
		}
	}
	switch {
	case prefix == "":
		ws.all.add(w)
	case strings.HasSuffix(prefix, "/") && strings.Count(prefix, "/") == 1:
		in(ws.namespace, prefix).add(w)
	default:
		ws.all.add(w) // an odd prefix: offered everything, takes what fits
	}
}

// offer hands a change to the watchers that it may concern.
func (ws *watchers) offer(c *cache, ch *change, number int64) {
	ws.all.offer(ch, number)
	key := ch.entry.Key
	if len(ws.namespace) > 0 {
		if i := strings.IndexByte(key, '/'); i >= 0 {
			ws.namespace[key[:i+1]].offer(ch, number)
		}
	}
	if len(ws.key) > 0 {
		ws.key[key].offer(ch, number)
	}
	if len(ws.field) == 0 {
		return
	}
	_, newF, _, oldF := ch.attributes(c.d)
	for name, values := range ws.field {
		if len(values) == 0 {
			continue
		}
		is, was := newF[name], oldF[name]
		if newF != nil {
			values[is].offer(ch, number)
		}
		if oldF != nil && (newF == nil || was != is) {
			values[was].offer(ch, number)
		}
	}
}

func (b *bucket) offer(ch *change, number int64) {
	if b == nil {
		return
	}
	for _, w := range b.list {
		w.offer(ch, number)
	}
}

// failAll ends every watch.
func (ws *watchers) failAll(err error) {
	fail := func(b *bucket) {
		for len(b.list) > 0 {
			b.list[len(b.list)-1].endLocked(err)
		}
	}
	fail(&ws.all)
	for _, b := range ws.namespace {
		fail(b)
	}
	for _, b := range ws.key {
		fail(b)
	}
	for _, values := range ws.field {
		for _, b := range values {
			fail(b)
		}
	}
}

// selects is Matches on known attributes.
func (p *Predicate) selects(l labels.Set, f fields.Set) bool {
	return (p.Label == nil || p.Label.Matches(l)) && (p.Field == nil || p.Field.Matches(f))
}

// bookmarker sends bookmarks to the watches that want them. Its timer runs
// only while there are any.
type bookmarker struct {
	every time.Duration

	mu    sync.Mutex
	set   map[*watcher]struct{}
	timer *time.Timer
	ended bool
}

func newBookmarker(every time.Duration) *bookmarker {
	return &bookmarker{every: every, set: map[*watcher]struct{}{}}
}

func (b *bookmarker) add(w *watcher) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set[w] = struct{}{}
	if b.timer == nil && !b.ended {
		b.timer = time.AfterFunc(b.wait(time.Now()), b.fire)
	}
}

// alignMost is how many watches of a kind may get their bookmarks at the same
// moment as those of other kinds.
const alignMost = 100

// wait is how long it is from now until the next bookmarks. Few watches of a
// kind get them when those of other kinds do: a node watches a dozen kinds, and
// wakes once for them all. Which moment that is differs by process, and many
// watches keep to their own, since they are work. Call with the lock held.
func (b *bookmarker) wait(now time.Time) time.Duration {
	if len(b.set) > alignMost {
		return b.every
	}
	phase := time.Duration(os.Getpid()) * 7919 * time.Millisecond
	return b.every - time.Duration((now.UnixNano()+int64(phase))%int64(b.every))
}

func (b *bookmarker) remove(w *watcher) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.set, w)
}

func (b *bookmarker) fire() {
	b.mu.Lock()
	all := make([]*watcher, 0, len(b.set))
	for w := range b.set {
		all = append(all, w)
	}
	b.timer = nil
	if len(all) > 0 && !b.ended {
		b.timer = time.AfterFunc(b.wait(time.Now()), b.fire)
	}
	b.mu.Unlock()
	for _, w := range all {
		w.bookmark()
	}
}

func (b *bookmarker) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.timer != nil {
		b.timer.Stop()
	}
}
