package rbac

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
)

// feed takes what a reflector of one kind finds straight into the index,
// with no copy between them.
type feed struct {
	a    *Authorizer
	kind kind
	once sync.Once
}

func (f *feed) Add(obj any) error { return f.Update(obj) }

func (f *feed) Update(obj any) error {
	f.a.x.mu.Lock()
	defer f.a.x.mu.Unlock()
	f.a.x.put(obj)
	f.note(obj)
	return nil
}

func (f *feed) Delete(obj any) error {
	f.a.x.mu.Lock()
	defer f.a.x.mu.Unlock()
	f.a.x.remove(obj)
	f.note(obj)
	return nil
}

// Replace is the first list, and every later one after a lost watch.
func (f *feed) Replace(list []any, resourceVersion string) error {
	f.a.x.mu.Lock()
	f.a.x.clear(f.kind)
	for _, o := range list {
		f.a.x.put(o)
	}
	f.a.x.saw(f.kind, resourceVersion)
	f.a.x.mu.Unlock()
	f.once.Do(func() { close(f.a.synced[f.kind]) })
	return nil
}

func (f *feed) Resync() error { return nil }

func (f *feed) note(obj any) {
	if m, err := meta.Accessor(obj); err == nil {
		f.a.x.saw(f.kind, m.GetResourceVersion())
	}
}
