package store

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api"
)

// write is an object on its way into etcd. The etcd watch may bring it back
// before the transaction is answered, so whoever comes first, writer or
// watch, makes the entry that both then share.
type write struct {
	key    string
	plain  []byte
	stored []byte // plain, transformed
	sum    uint64
	bound  *Encodings

	mu    sync.Mutex
	obj   runtime.Object
	entry *Entry
}

// resolve returns the entry of the object at a revision. Different revisions
// are asked for only when two writers wrote the same bytes.
func (w *write) resolve(revision int64) *Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.entry == nil {
		w.obj.(api.Object).SetResourceVersion(strconv.FormatInt(revision, 10))
		w.entry = &Entry{
			Key: w.key, Object: w.obj, Revision: revision, sum: w.sum, size: int32(len(w.plain)),
			encodings: encodings{bound: w.bound},
		}
		w.entry.encodings.store(w.plain)
	}
	if w.entry.Revision == revision {
		return w.entry
	}
	e := w.entry.at(revision)
	e.encodings.store(w.plain)
	return e
}

// at returns the entry's object as of another revision. The two share all but
// their resourceVersion.
func (e *Entry) at(revision int64) *Entry {
	return &Entry{
		Key: e.Key, Object: withRevision(e.Object, revision), Revision: revision,
		sum: e.sum, size: e.size, stale: e.stale, encodings: encodings{bound: e.encodings.bound},
	}
}

// withRevision returns a shallow copy of obj with another resourceVersion.
func withRevision(obj runtime.Object, revision int64) runtime.Object {
	rv := strconv.FormatInt(revision, 10)
	if u, ok := obj.(*unstructured.Unstructured); ok {
		out := &unstructured.Unstructured{Object: maps.Clone(u.Object)}
		if meta, ok := out.Object["metadata"].(map[string]any); ok {
			meta = maps.Clone(meta)
			meta["resourceVersion"] = rv
			out.Object["metadata"] = meta
		}
		return out
	}
	v := reflect.ValueOf(obj).Elem()
	c := reflect.New(v.Type())
	c.Elem().Set(v)
	out := c.Interface().(api.Object)
	out.SetResourceVersion(rv)
	return out
}

// pending holds the writes that the etcd watch has not brought back yet.
type pending struct {
	mu     sync.Mutex
	writes map[string][]*write
}

func (p *pending) add(w *write) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writes == nil {
		p.writes = map[string][]*write{}
	}
	p.writes[w.key] = append(p.writes[w.key], w)
}

func (p *pending) remove(w *write) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep(w.key, func(other *write) bool { return other != w })
}

// claim returns the entry of the write that stored value, if it was one of
// this process.
func (p *pending) claim(key string, value []byte, revision int64) *Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e *Entry
	for _, w := range p.writes[key] {
		if bytes.Equal(w.stored, value) {
			e = w.resolve(revision)
			break
		}
	}
	p.drop(key, revision)
	return e
}

// drop removes what is known to lie at or before a revision.
func (p *pending) drop(key string, revision int64) {
	p.keep(key, func(w *write) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.entry == nil || w.entry.Revision > revision
	})
}

func (p *pending) keep(key string, keep func(*write) bool) {
	ws, ok := p.writes[key]
	if !ok {
		return
	}
	ws = slices.DeleteFunc(ws, func(w *write) bool { return !keep(w) })
	if len(ws) == 0 {
		delete(p.writes, key)
	} else {
		p.writes[key] = ws
	}
}

func (p *pending) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes = nil
}
