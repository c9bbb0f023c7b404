package apiserver

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/table"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// kind is a row of the table at work: with its store and hook.
type kind struct {
	*api.Kind
	srv   *Server
	store store.Interface // nil for kinds that are not stored
	hook  Hook
	gr    schema.GroupResource
	verbs map[client.Verb]bool
	table *table.Convertor
	// custom kinds are unstructured, and known by their definitions only.
	custom bool
	// types reads the schema by which fields are managed, at the first write.
	types func() (managedfields.TypeConverter, error)
	// empties is how settle goes through an object, made at the first write.
	empties func() clearing
	// streams are the HTTP watches open that select nothing.
	streams atomic.Int64
}

var allVerbs = []client.Verb{client.Create, client.Delete, client.DeleteCollection, client.Get, client.List, client.Patch, client.Update, client.Watch}

func newKind(s *Server, k *api.Kind) *kind {
	ks := &kind{Kind: k, srv: s, gr: k.GR(), verbs: map[client.Verb]bool{}}
	if k.Prefix != "" || slices.Contains(k.Verbs, string(client.Get)) { // else it is not even computed
		ks.store = s.cfg.Store(k)
	}
	ks.hook = s.cfg.Extensions.Hooks[ks.gr]
	ks.table = table.New(k.Columns, k.Cells)
	_, ks.custom = k.New().(*unstructured.Unstructured)
	ks.empties = sync.OnceValue(func() clearing {
		return clearingOf(reflect.TypeOf(k.New()).Elem(), map[reflect.Type]bool{})
	})
	ks.types = sync.OnceValues(func() (managedfields.TypeConverter, error) { return typesOf(s, k) })
	switch {
	case k.Verbs != nil:
		for _, v := range k.Verbs {
			ks.verbs[client.Verb(v)] = true
		}
	case k.Prefix == "":
		ks.verbs[client.Create] = true
	default:
		for _, v := range allVerbs {
			ks.verbs[v] = true
		}
	}
	return ks
}

// key is an object's key in the store.
func (k *kind) key(namespace, name string) string {
	if k.Namespaced {
		return namespace + "/" + name
	}
	return name
}

// nameCheck is the kind's check of metadata.name.
func (k *kind) nameCheck() apivalidation.ValidateNameFunc {
	if k.Strategy.ValidateName != nil {
		return k.Strategy.ValidateName
	}
	return apivalidation.NameIsDNSSubdomain
}

// resource is a kind seen through one of its views: what a URL names.
type resource struct {
	*kind
	view *api.View
	// Strategy and Subresources are the view's, which may differ from the kind's.
	Strategy     api.Strategy
	Subresources map[string]api.Subresource

	gvr      schema.GroupVersionResource
	head     *wire.Head
	listHead *wire.Head
	// formats are the keys of cached encodings, by wire.Media. Views that
	// share the hub's type share its encodings.
	formats     [3]store.Format
	metaFormats [3]store.Format

	trackers sync.Map // subresource -> *tracker
	// shown makes table rows of the view's own columns; nil uses the kind's.
	shown *table.Convertor
}

func newResource(s *Server, k *kind, v *api.View) *resource {
	r := &resource{kind: k, view: v, gvr: v.GroupVersion().WithResource(k.Resource)}
	r.Strategy, r.Subresources = k.Strategy, k.SubresourcesOf(v)
	if v.Strategy != nil {
		r.Strategy = *v.Strategy
	}
	r.head = wire.NewHead(v.GroupVersionKind)
	list := v.Kind + "List"
	if v.Kind == k.Hub.Kind && k.HubListKind != "" {
		list = k.HubListKind
	}
	r.listHead = wire.NewHead(v.GroupVersion().WithKind(list))
	r.listHead.Unstructured = r.custom
	if v.Cells != nil {
		r.shown = table.New(v.Columns, v.Cells)
	}
	gv := v.GroupVersion()
	if v.FromHub == nil {
		gv = k.Hub.GroupVersion()
	}
	for m, name := range [3]string{"json", "json", "protobuf"} {
		r.formats[m] = store.NewFormat(name, gv)
		r.metaFormats[m] = store.NewFormat(name+"-metadata", schema.GroupVersion{})
	}
	return r
}

// toHub defaults an object of the view's type and converts it to the hub. obj
// is transferred.
func (r *resource) toHub(obj runtime.Object) (runtime.Object, error) {
	if r.view.Default != nil {
		r.view.Default(obj)
	}
	if r.view.ToHub != nil {
		var err error
		if obj, err = r.view.ToHub(obj); err != nil {
			return nil, err
		}
	}
	wire.ClearKind(obj)
	if r.Strategy.Default != nil {
		r.Strategy.Default(obj)
	}
	return obj, nil
}

// current is a stored object in the hub's version. Custom objects are kept in
// the version that they were stored in; the result may be obj itself, which is
// shared.
func (r *resource) current(obj runtime.Object) (runtime.Object, error) {
	if !r.custom || r.view.ToHub == nil {
		return obj, nil
	}
	return r.view.ToHub(obj)
}

// fromHub shows a hub object in the view's type. Both may share memory.
func (r *resource) fromHub(obj runtime.Object) (runtime.Object, error) {
	if r.view.FromHub == nil {
		return obj, nil
	}
	out, err := r.view.FromHub(obj)
	if err != nil {
		return nil, fmt.Errorf("show %s as %s: %w", r.Hub, r.view.GroupVersionKind, err)
	}
	return out, nil
}

// predicate makes the store's predicate of a request's selectors. What they
// see of an object is left to the store, which then looks once for all
// watches of a kind.
func (r *resource) predicate(o *client.Options) store.Predicate {
	return store.Predicate{Label: o.LabelSelector, Field: o.FieldSelector}
}

// checkFields refuses a selector on a field that the kind does not offer.
func (r *resource) checkFields(sel fields.Selector) error {
	if sel == nil {
		return nil
	}
	for _, req := range sel.Requirements() {
		names := r.FieldNames
		if r.view.FieldNames != nil {
			names = r.view.FieldNames
		}
		standard := len(names) == 0 && !r.custom
		switch {
		case req.Field == "metadata.name", contains(names, req.Field):
		case req.Field == "metadata.namespace" && (r.Namespaced || standard) && !r.NoNamespaceField: // that of what has none is empty
		case r.UnknownField != "":
			return fmt.Errorf(r.UnknownField, req.Field)
		case standard:
			return fmt.Errorf("%q is not a known field selector: only %q, %q", req.Field, "metadata.name", "metadata.namespace")
		default:
			return fmt.Errorf("field label not supported: %s", req.Field)
		}
	}
	return nil
}

// accessor returns an object's metadata. Every object that reaches the store
// has some, so that its absence is a wrongly built table.
func accessor(obj runtime.Object) metav1.Object {
	if m, ok := obj.(metav1.Object); ok {
		return m
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(fmt.Sprintf("%T has no metadata", obj))
	}
	return m
}

// body is an entry in the view's type, encoded once per revision and format.
// What was stored in that form is not encoded at all; its resourceVersion is
// appended to room, which may be nil and is the body's from then on.
func (r *resource) body(m wire.Media, e *store.Entry, room []byte) (wire.Body, error) {
	if m == wire.Protobuf && r.view.FromHub == nil {
		if stored, rev, ok := e.Message(room); ok {
			return wire.Body{Bytes: stored, Tail: rev}, nil
		}
	}
	b, err := e.Encoded(r.formats[m], func() ([]byte, error) { return r.encode(m, e.Object) })
	return wire.Body{Bytes: b}, err
}

func (r *resource) encode(m wire.Media, hub runtime.Object) ([]byte, error) {
	obj, err := r.fromHub(hub)
	if err != nil {
		return nil, err
	}
	return r.srv.codec.Body(m, obj)
}

// metaBody encodes an entry's metadata as PartialObjectMetadata, in body's form.
func (r *resource) metaBody(m wire.Media, e *store.Entry, _ []byte) (wire.Body, error) {
	b, err := e.Encoded(r.metaFormats[m], func() ([]byte, error) {
		return r.srv.codec.Body(m, partial(e.Object))
	})
	return wire.Body{Bytes: b}, err
}

// partial is an object's metadata alone; it shares obj's memory.
func partial(obj runtime.Object) *metav1.PartialObjectMetadata {
	return meta.AsPartialObjectMetadata(accessor(obj))
}
