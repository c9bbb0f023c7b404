package apiserver

import (
	"context"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/store"
)

// custom holds the kinds that are served beside the table's: rows made at run
// time from definitions. A kind costs nothing but its row until it is first
// asked for. It is safe for concurrent use.
type custom struct {
	routes  sync.Map // schema.GroupVersionResource -> func() *resource
	changes atomic.Int64

	mu     sync.Mutex
	kinds  map[schema.GroupResource]*api.Kind
	hidden map[schema.GroupResource]bool // from discovery
}

func (c *custom) find(gvr schema.GroupVersionResource) (*resource, bool) {
	for {
		v, ok := c.routes.Load(gvr)
		if !ok {
			return nil, false
		}
		if r := v.(func() *resource)(); r != nil {
			return r, true
		} // replaced between the two lines above
	}
}

// shown lists the kinds as they are now.
func (c *custom) shown() []*api.Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*api.Kind, 0, len(c.kinds))
	for gr, k := range c.kinds {
		if !c.hidden[gr] {
			out = append(out, k)
		}
	}
	return out
}

// AddKind serves a kind that is not in the table from now on, in place of the
// row that had its resource before. hook runs in its writes. Who makes the rows
// ends the old one's watches (store.Forget). A new resource is not in discovery
// before ShowKind. A resource of the table cannot be replaced: false.
func (s *Server) AddKind(k *api.Kind, hook Hook) bool {
	for i := range k.Views {
		if _, taken := s.routes[k.Views[i].GroupVersion().WithResource(k.Resource)]; taken {
			return false
		}
	}
	c := &s.custom
	at := sync.OnceValue(func() *kind {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.kinds[k.GR()] != k {
			return nil // its store must not come after its successor's
		}
		ks := newKind(s, k)
		ks.hook = hook
		return ks
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kinds == nil {
		c.kinds, c.hidden = map[schema.GroupResource]*api.Kind{}, map[schema.GroupResource]bool{}
	}
	if c.kinds[k.GR()] == nil {
		c.hidden[k.GR()] = true
	}
	c.dropRoutes(c.kinds[k.GR()], k)
	c.kinds[k.GR()] = k
	for i := range k.Views {
		v := &k.Views[i]
		c.routes.Store(v.GroupVersion().WithResource(k.Resource), sync.OnceValue(func() *resource {
			ks := at()
			if ks == nil {
				return nil
			}
			return newResource(s, ks, v)
		}))
	}
	c.changes.Add(1)
	return true
}

// ShowKind lets discovery tell of a resource that AddKind has added; it says
// whether that is news.
func (s *Server) ShowKind(gr schema.GroupResource) bool {
	c := &s.custom
	c.mu.Lock()
	defer c.mu.Unlock()
	news := c.hidden[gr]
	delete(c.hidden, gr)
	if news {
		c.changes.Add(1)
	}
	return news
}

// RemoveKind ends the serving of a kind that AddKind has added.
func (s *Server) RemoveKind(gr schema.GroupResource) {
	c := &s.custom
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.kinds[gr]; k != nil {
		c.dropRoutes(k, nil)
		delete(c.kinds, gr)
		delete(c.hidden, gr)
		c.changes.Add(1)
	}
}

// dropRoutes takes away the versions of old that k does not have.
func (c *custom) dropRoutes(old, k *api.Kind) {
	if old == nil {
		return
	}
	for i := range old.Views {
		gv, kept := old.Views[i].GroupVersion(), false
		for j := 0; k != nil && j < len(k.Views); j++ {
			kept = kept || k.Views[j].GroupVersion() == gv
		}
		if !kept {
			c.routes.Delete(gv.WithResource(old.Resource))
		}
	}
}

// Kinds lists every kind that is served now, those of the table first.
func (s *Server) Kinds() []*api.Kind {
	return append(append([]*api.Kind(nil), s.cfg.Table.Kinds...), s.custom.shown()...)
}

// prepare encodes what is not yet, converting all of it at once where the view
// can: one call of a webhook instead of one per object.
func (r *resource) prepare(m wire.Media, entries []*store.Entry) error {
	if r.view.FromHubList == nil || len(entries) < 2 {
		return nil
	}
	var todo []*store.Entry
	var objs []runtime.Object
	for _, e := range entries {
		if _, err := e.Encoded(r.formats[m], func() ([]byte, error) { return nil, context.Canceled }); err != nil {
			todo, objs = append(todo, e), append(objs, e.Object)
		}
	}
	shown, err := r.view.FromHubList(objs)
	if err != nil {
		return err
	}
	for i, e := range todo {
		if _, err := e.Encoded(r.formats[m], func() ([]byte, error) { return r.srv.codec.Body(m, shown[i]) }); err != nil {
			return err
		}
	}
	return nil
}

// rowObjects are the entries' objects as table rows are made of them.
func (r *resource) rowObjects(entries []*store.Entry) ([]runtime.Object, error) {
	out := make([]runtime.Object, len(entries))
	for i, e := range entries {
		out[i] = e.Object
	}
	switch {
	case r.shown == nil:
		return out, nil
	case r.view.FromHubList != nil:
		return r.view.FromHubList(out)
	}
	for i := range out {
		var err error
		if out[i], err = r.fromHub(out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
