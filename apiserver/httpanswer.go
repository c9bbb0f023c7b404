package apiserver

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/table"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/store"
)

func nameSelector(name string) fields.Selector {
	return fields.OneTermEqualSelector("metadata.name", name)
}

// partialHead is the kind of metadata-only objects in a version.
func partialHead(version, suffix string) *wire.Head {
	if version == "v1" {
		if suffix == "" {
			return partialV1
		}
		return partialListV1
	}
	return wire.NewHead(schema.GroupVersionKind{Group: metav1.GroupName, Version: version, Kind: "PartialObjectMetadata" + suffix})
}

var (
	partialV1     = wire.NewHead(schema.GroupVersionKind{Group: metav1.GroupName, Version: "v1", Kind: "PartialObjectMetadata"})
	partialListV1 = wire.NewHead(schema.GroupVersionKind{Group: metav1.GroupName, Version: "v1", Kind: "PartialObjectMetadataList"})
)

// write sends an answer in the form that the client asked for.
func (h *httpCall) write(a *answer) error {
	pieces, err := h.pieces(a)
	if err != nil {
		return err
	}
	if h.counted != nil && h.counted.size != nil {
		h.counted.size.Observe(float64(wire.Size(pieces)))
	}
	h.turn.Release() // how fast the client reads is not for others to wait for
	wire.Respond(h.w, h.r, a.code(h.req), h.accept.Media.String(), pieces, wire.Pretty(h.r, h.accept))
	h.listing.recycle()
	return nil
}

// listing is the memory that a list's answer is put together in; lists use it
// one after the other, so that large ones do not make as much garbage.
type listing struct {
	items  []wire.Body
	rooms  []byte // of the items' resourceVersions
	pieces [][]byte
}

// room is what a resourceVersion takes at most (see store.Entry's Message).
const room = 24

var listings = sync.Pool{New: func() any { return new(listing) }}

// newListing has room for n items. It is the caller's until it is recycled.
func newListing(n int) *listing {
	l := listings.Get().(*listing)
	if cap(l.items) < n {
		*l = listing{make([]wire.Body, 0, n), make([]byte, 0, room*n), make([][]byte, 0, wire.ListPieces(n))}
	}
	return l
}

// recycle gives the memory to others: nothing made of it is in use any more.
// l may be nil.
func (l *listing) recycle() {
	if l == nil || cap(l.items) > 1<<16 {
		return
	}
	clear(l.items) // they keep objects' bytes
	clear(l.pieces)
	l.items, l.rooms, l.pieces = l.items[:0], l.rooms[:0], l.pieces[:0]
	listings.Put(l)
}

func (h *httpCall) pieces(a *answer) ([][]byte, error) {
	m := h.accept.Media
	if a.entry == nil && a.hub {
		// An object that is not stored as it is shown: the same forms, but
		// encoded for this answer only.
		a.entry = &store.Entry{Object: a.obj}
	}
	if err := h.misshown(a); err != nil {
		return nil, err
	}
	switch {
	case a.list != nil:
		return h.listPieces(a.list)
	case a.items != nil:
		return h.itemPieces(a.items)
	case a.entry == nil && h.sub != nil && h.sub.Project != nil && h.accept.As != "":
		return h.projectedPieces(a.obj)
	case a.entry == nil && h.accept.As != "" && !isStatus(a.obj):
		body, err := h.srv.codec.Body(m, partial(a.obj))
		if err != nil {
			return nil, err
		}
		return partialHead(h.accept.Version, "").Message(m, wire.Body{Bytes: body})
	case a.entry == nil:
		body, err := h.srv.codec.Body(m, a.obj)
		if err != nil {
			return nil, wire.NotAcceptable([]string{wire.TypeJSON, wire.TypeYAML})
		}
		head := wire.StatusHead
		if gvk := h.kindOf(a); gvk != head.GVK {
			head = wire.NewHead(gvk)
		}
		return head.Message(m, wire.Body{Bytes: body})
	case h.accept.As == "Table":
		return h.tablePieces(metav1.ListMeta{ResourceVersion: accessor(a.entry.Object).GetResourceVersion()}, []*store.Entry{a.entry})
	case h.accept.As != "":
		body, err := h.res.metaBody(m, a.entry, nil)
		if err != nil {
			return nil, err
		}
		return partialHead(h.accept.Version, "").Message(m, body)
	}
	body, err := h.res.body(m, a.entry, nil)
	if err != nil {
		return nil, err
	}
	return h.res.head.Message(m, body)
}

// misshown refuses to show a list as one object's metadata, and an object as
// that of many.
func (h *httpCall) misshown(a *answer) error {
	list := a.list != nil || a.items != nil
	switch st := h.accept.As; {
	case st == "PartialObjectMetadata" && list:
		return wire.Misshown(st, "is a list", h.goType("List"))
	case st == "PartialObjectMetadataList" && !list && a.entry != nil:
		return wire.Misshown(st, "is not a list", h.goType(""))
	case st == "PartialObjectMetadataList" && h.sub != nil && h.sub.Project != nil:
		return wire.Misshown(st, "is not a list", "*autoscaling.Scale")
	case st == "PartialObjectMetadataList" && h.sub != nil && h.sub.Action != nil && !isStatus(a.obj):
		group, _, _ := strings.Cut(h.sub.Action.GVK.Group, ".")
		return wire.Misshown(st, "is not a list", "*"+group+"."+h.sub.Action.GVK.Kind)
	}
	return nil
}

// isStatus says that an answer is a status, which is shown as it is in whatever
// form an object was asked for.
func isStatus(obj runtime.Object) bool {
	_, ok := obj.(*metav1.Status)
	return ok
}

// goType is the type in which upstream holds the kind's objects, which its
// refusals name.
func (h *httpCall) goType(suffix string) string {
	if h.res.custom {
		return "*unstructured.Unstructured" + suffix
	}
	group, _, _ := strings.Cut(h.res.Hub.Group, ".")
	if group == "" {
		group = "core"
	}
	return "*" + group + "." + h.res.Hub.Kind + suffix
}

// projectedPieces shows a projection in another form than its own.
func (h *httpCall) projectedPieces(obj runtime.Object) ([][]byte, error) {
	body, err := h.srv.codec.Body(wire.JSON, partial(obj))
	if err != nil {
		return nil, err
	}
	if h.accept.As != "Table" {
		if h.accept.Media != wire.JSON {
			if body, err = h.srv.codec.Body(h.accept.Media, partial(obj)); err != nil {
				return nil, err
			}
		}
		return partialHead(h.accept.Version, "").Message(h.accept.Media, wire.Body{Bytes: body})
	}
	row := table.Row{Hub: obj}
	switch include, err := h.included(); {
	case err != nil:
		return nil, err
	case include == metav1.IncludeMetadata:
		row.Object = json.RawMessage(partialHead(h.accept.Version, "").JSON(body))
	case include == metav1.IncludeObject:
		whole, err := h.srv.codec.Body(wire.JSON, obj)
		if err != nil {
			return nil, err
		}
		row.Object = json.RawMessage(wire.NewHead(h.sub.Project.GVK).JSON(whole))
	}
	body, err = scaleTable().Body(metav1.ListMeta{ResourceVersion: accessor(obj).GetResourceVersion()}, []table.Row{row}, false)
	if err != nil {
		return nil, err
	}
	return table.Head(h.accept.Version).Message(h.accept.Media, wire.Body{Bytes: body})
}

func listMeta(l *store.List) metav1.ListMeta {
	return metav1.ListMeta{ResourceVersion: revision(l.Revision), Continue: l.Continue, RemainingItemCount: l.RemainingItemCount}
}

func (h *httpCall) listPieces(l *store.List) ([][]byte, error) {
	meta := listMeta(l)
	if h.accept.As == "Table" {
		return h.tablePieces(meta, l.Entries)
	}
	encode, head, typed := h.res.body, h.res.listHead, (*wire.Head)(nil)
	if h.res.custom {
		typed = h.res.head
		if h.accept.As == "" {
			if err := h.res.prepare(h.accept.Media, l.Entries); err != nil {
				return nil, err
			}
		}
	}
	if h.accept.As != "" {
		encode, head, typed = h.res.metaBody, partialHead(h.accept.Version, "List"), partialHead(h.accept.Version, "")
	}
	m := newListing(len(l.Entries))
	h.listing = m
	for _, e := range l.Entries {
		b, err := encode(h.accept.Media, e, m.rooms)
		if err != nil {
			return nil, err
		}
		m.rooms = m.rooms[:len(m.rooms)+len(b.Tail)]
		m.items = append(m.items, b)
	}
	var err error
	m.pieces, err = head.List(m.pieces, h.accept.Media, &meta, m.items, typed)
	return m.pieces, err
}

// itemPieces shows a list that an action has made.
func (h *httpCall) itemPieces(objs []runtime.Object) ([][]byte, error) {
	l := &store.List{Entries: make([]*store.Entry, len(objs))}
	for i, o := range objs {
		l.Entries[i] = &store.Entry{Object: o}
	}
	return h.listPieces(l)
}

// tablePieces shows entries as a Table.
func (h *httpCall) tablePieces(meta metav1.ListMeta, entries []*store.Entry) ([][]byte, error) {
	body, err := h.tableBody(meta, entries, false)
	if err != nil {
		return nil, err
	}
	return table.Head(h.accept.Version).Message(h.accept.Media, wire.Body{Bytes: body})
}

func (h *httpCall) tableBody(meta metav1.ListMeta, entries []*store.Entry, bare bool) ([]byte, error) {
	include, err := h.included()
	if err != nil {
		return nil, err
	}
	rows := make([]table.Row, len(entries))
	convertor := h.res.table
	shown, err := h.res.rowObjects(entries)
	if err != nil {
		return nil, err
	}
	if h.res.shown != nil {
		convertor = h.res.shown
	}
	for i, e := range entries {
		rows[i].Hub = shown[i]
		switch include {
		case metav1.IncludeMetadata:
			b, err := h.res.metaBody(wire.JSON, e, nil)
			if err != nil {
				return nil, err
			}
			rows[i].Object = json.RawMessage(partialHead(h.accept.Version, "").JSON(b.Bytes))
		case metav1.IncludeObject:
			b, err := h.res.body(wire.JSON, e, nil)
			if err != nil {
				return nil, err
			}
			rows[i].Object = json.RawMessage(h.res.head.JSON(b.Bytes))
		}
	}
	return convertor.Body(meta, rows, bare)
}

// included is what a table's rows carry beside their cells.
func (h *httpCall) included() (metav1.IncludeObjectPolicy, error) {
	p := metav1.IncludeMetadata
	if h.r.URL.RawQuery != "" {
		if v := h.r.URL.Query().Get("includeObject"); v != "" {
			p = metav1.IncludeObjectPolicy(v)
		}
	}
	switch p {
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
		return p, nil
	}
	return "", apierrors.NewBadRequest("includeObject: Invalid value: \"" + string(p) + "\": must be 'Metadata', 'Object', 'None', or empty")
}

var _ http.Handler = (*Server)(nil)
