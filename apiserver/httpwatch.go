package apiserver

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/table"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/store"
)

// watchTimeout is the least time after which a watch without a timeout of its
// own is ended; the most is twice that, so that clients do not come back all
// at once.
const watchTimeout = 30 * time.Minute

// watch streams the changes until the client, the timeout or the server ends
// it.
func (h *httpCall) watch() {
	start := h.srv.now()
	done, err := h.begin(h.r.Context())
	defer h.turn.Release()
	if err != nil {
		done(0, err)
		h.srv.metrics.observe(h.call, 0, err, h.srv.now().Sub(start))
		h.srv.fail(h.w, h.r, err)
		return
	}
	timeout := watchTimeout + rand.N(watchTimeout)
	if t := h.req.Options.TimeoutSeconds; t != nil && *t != 0 {
		timeout = max(seconds(*t), time.Millisecond) // one that is over has begun, too
	}
	ctx, cancel := context.WithTimeout(h.r.Context(), timeout)
	defer cancel()
	w, err := h.openWatch(ctx)
	if err != nil {
		done(0, err)
		h.srv.fail(h.w, h.r, err)
		return
	}
	defer w.Stop()
	h.turn.Release()
	h.srv.open.Add(1)
	defer h.srv.open.Done()
	defer h.srv.metrics.gates.running(h.call)()
	ct := h.accept.Media.String()
	if h.accept.Media != wire.JSON {
		ct += ";stream=watch"
	}
	h.w.Header().Set("Content-Type", ct)
	h.writeWarnings()
	h.w.WriteHeader(http.StatusOK)
	h.record.ResponseStarted(http.StatusOK, nil)
	h.stream(ctx, w, start)
	done(http.StatusOK, nil)
	h.srv.metrics.observe(h.call, http.StatusOK, nil, h.srv.now().Sub(start))
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// How long after a write events are gathered before the next one. An event by
// itself is sent at once; a burst goes out in few writes, each of which costs
// more than the events in it: some 30 microseconds in all. Where one event makes
// many streams write, since they select nothing, that is the server's work, and
// they take their time, so that it keeps a sixth of a CPU busy at most.
const (
	gather       = 4 * time.Millisecond
	gatherStream = 200 * time.Microsecond // for each such stream of the kind
	gatherMost   = 40 * time.Millisecond
)

func (h *httpCall) gather() time.Duration {
	if h.selects() {
		return gather
	}
	return min(max(gather, time.Duration(h.res.streams.Load())*gatherStream), gatherMost)
}

// selects says that a watch is of some of a kind's objects only, such as a
// kubelet's of its pods: few others get the same events.
func (h *httpCall) selects() bool {
	o := &h.req.Options
	return o.FieldSelector != nil && !o.FieldSelector.Empty() || o.LabelSelector != nil && !o.LabelSelector.Empty()
}

// frames are the buffers that streams write from; an idle stream holds none.
var frames = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// stream writes events as they come, to a request that came at start. What has
// gathered meanwhile is written and flushed at once.
func (h *httpCall) stream(ctx context.Context, w store.Watcher, start time.Time) {
	rc := http.NewResponseController(h.w)
	if rc.Flush() != nil {
		return
	}
	f := &framer{h: h, start: start}
	f.sent, f.size = h.srv.metrics.gates.sent(h.req.Resource)
	slow := stickiness{stuck: stuck{w: h.w}}
	defer slow.finish()
	if !h.selects() {
		h.res.streams.Add(1)
		defer h.res.streams.Add(-1)
	}
	var last time.Time
	burst := false
	for {
		ev, atHand, ok := h.next(ctx, w)
		if !ok {
			return
		}
		// A burst is slept through: to be woken by each of its events would
		// cost more than to send it.
		wait := h.gather() - time.Since(last)
		burst = wait > 0 || burst && atHand
		time.Sleep(wait)
		buf := frames.Get().(*[]byte)
		more := f.drain(buf, ev, w.Events())
		slow.begin()
		_, err := h.w.Write(*buf)
		if err == nil {
			err = rc.Flush()
		}
		last = slow.end()
		if cap(*buf) <= 256<<10 {
			*buf = (*buf)[:0]
			frames.Put(buf)
		}
		if err != nil || !more {
			return
		}
		if burst {
			time.Sleep(h.gather()) // not to be woken by its next event first
		}
	}
}

// next waits for an event, unless one is at hand; ok is false when the stream
// is to end.
func (h *httpCall) next(ctx context.Context, w store.Watcher) (ev store.Event, atHand, ok bool) {
	if ctx.Err() == nil && h.srv.away.Err() == nil {
		select { // alone it takes a fraction of what all three take
		case ev, ok = <-w.Events():
			return ev, true, ok
		default:
		}
	}
	select {
	case <-ctx.Done():
		h.lastWord(w)
		return ev, false, false
	case <-h.srv.away.Done():
		return ev, false, false
	case ev, ok = <-w.Events():
		return ev, false, ok
	}
}

// lastWord sends why a watch could not begin, when its time was over by then.
func (h *httpCall) lastWord(w store.Watcher) {
	select {
	case ev, ok := <-w.Events():
		if ok && ev.Type == store.Error {
			_, _ = h.w.Write((&framer{h: h}).append(nil, ev))
		}
	default:
	}
}

// framer turns events into frames.
type framer struct {
	h      *httpCall
	start  time.Time
	tabled bool // columns have been sent
	sent   prometheus.Counter
	size   prometheus.Observer
	head   *wire.Head
	room   [24]byte // for an event's resourceVersion
}

// drain appends ev and what else is at hand; false says that no more will come.
func (f *framer) drain(buf *[]byte, ev store.Event, more <-chan store.Event) bool {
	n := 0
	defer func() { f.sent.Add(float64(n)) }()
	for {
		if f.h.accept.As == "PartialObjectMetadataList" && ev.Type != store.Error {
			return false // no event is a list: as upstream, which is silent about it
		}
		n++
		before := len(*buf)
		*buf = f.append(*buf, ev)
		f.size.Observe(float64(len(*buf) - before))
		if ev.Type == store.Error {
			return false
		}
		if len(*buf) > 64<<10 {
			return true
		}
		select {
		case next, ok := <-more:
			if !ok {
				return false
			}
			ev = next
		default:
			return true
		}
	}
}

func (f *framer) append(buf []byte, ev store.Event) []byte {
	h, m := f.h, f.h.accept.Media
	if ev.Type == store.Error {
		return f.fail(buf, ev.Err)
	}
	e := ev.Entry
	if ev.Type == store.Bookmark {
		e = nil
	}
	if ev.InitialEventsEnd {
		h.srv.metrics.gates.listed(h.call, h.srv.now().Sub(f.start))
	}
	head, body, err := f.body(e, ev)
	if err != nil {
		h.srv.log.Error("watch event not encoded", "resource", h.res.gvr.String(), "error", err)
		return f.fail(buf, err)
	}
	return head.AppendFrame(buf, m, string(eventTypes[ev.Type]), body)
}

func (f *framer) fail(buf []byte, err error) []byte {
	body, encErr := f.h.srv.codec.Body(f.h.accept.Media, wire.Status(err))
	if encErr != nil {
		return buf
	}
	return wire.StatusHead.AppendFrame(buf, f.h.accept.Media, "ERROR", wire.Body{Bytes: body})
}

// body encodes an event's object; e is nil for a bookmark.
func (f *framer) body(e *store.Entry, ev store.Event) (*wire.Head, wire.Body, error) {
	h, m := f.h, f.h.accept.Media
	switch h.accept.As {
	case "":
		if e == nil {
			b, err := h.srv.codec.Body(m, h.res.bookmark(ev))
			return h.res.head, wire.Body{Bytes: b}, err
		}
		b, err := h.res.body(m, e, f.room[:0])
		return h.res.head, b, err
	case "Table":
		if f.head == nil {
			f.head = table.Head(h.accept.Version)
		}
		if e == nil {
			b, err := f.bookmarkTable(ev)
			return f.head, wire.Body{Bytes: b}, err
		}
		b, err := h.tableBody(metav1.ListMeta{ResourceVersion: accessor(e.Object).GetResourceVersion()}, []*store.Entry{e}, f.tabled)
		f.tabled = true
		return f.head, wire.Body{Bytes: b}, err
	}
	head := partialHead(h.accept.Version, "")
	if e == nil {
		b, err := h.srv.codec.Body(m, partial(h.res.bookmark(ev)))
		return head, wire.Body{Bytes: b}, err
	}
	b, err := h.res.metaBody(m, e, nil)
	return head, b, err
}

// bookmarkTable is a bookmark as a table: one row around an empty object.
func (f *framer) bookmarkTable(ev store.Event) ([]byte, error) {
	hub := f.h.res.New()
	m := accessor(hub)
	m.SetResourceVersion(revision(ev.Revision))
	if ev.InitialEventsEnd {
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	b, err := f.h.tableBody(metav1.ListMeta{ResourceVersion: revision(ev.Revision)}, []*store.Entry{{Object: hub}}, f.tabled)
	f.tabled = true
	return b, err
}
