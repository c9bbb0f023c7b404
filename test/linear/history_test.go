package linear

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// good is a history in which all is well: two objects, two watchers, writes
// that overlap, one whose outcome is not known.
func good() *History {
	events := []Event{
		{Added, "a", "a1", 2}, {Added, "b", "b1", 3}, {Modified, "a", "a2", 4}, {Modified, "b", "b2", 5},
		{Deleted, "a", "a2", 6}, {Added, "a", "a3", 7}, {Modified, "a", "a4", 8},
	}
	return &History{
		Log: slices.Clone(events),
		Ops: []Op{
			{Key: "a", Kind: Create, Value: "a1", Revision: 2, Start: 0, End: 10 * ms},
			{Key: "b", Kind: Create, Value: "b1", Revision: 3, Start: 5 * ms, End: 15 * ms},
			{Key: "a", Kind: Update, Prev: 2, Value: "a2", Revision: 4, Start: 12 * ms, End: 30 * ms},
			{Key: "a", Kind: Update, Prev: 2, Value: "a2'", Outcome: Conflict, Start: 12 * ms, End: 31 * ms},
			{Key: "a", Kind: Read, Value: "a1", Revision: 2, Start: 11 * ms, End: 20 * ms},
			{Key: "a", Kind: Read, Value: "a2", Revision: 4, Start: 20 * ms, End: 40 * ms},
			{Key: "b", Kind: Patch, Value: "b2", Outcome: Unknown, Start: 20 * ms, End: 30 * ms},
			{Key: "b", Kind: Patch, Value: "b3", Outcome: Unknown, Start: 31 * ms, End: 33 * ms},
			{Key: "a", Kind: Delete, Prev: 4, Start: 41 * ms, End: 50 * ms},
			{Key: "a", Kind: Read, Outcome: NotFound, Start: 51 * ms, End: 55 * ms},
			{Key: "a", Kind: Create, Value: "a3", Revision: 7, Start: 54 * ms, End: 60 * ms},
			{Key: "a", Kind: Create, Value: "a3'", Outcome: Conflict, Start: 54 * ms, End: 60 * ms},
			{Key: "a", Kind: Patch, Value: "a4", Revision: 8, Start: 61 * ms, End: 70 * ms},
		},
		Streams: []Stream{{Start: 1, Events: events}, {Start: 3, Events: slices.Clone(events[2:])}},
	}
}

// What all watchers were away for is nothing that they missed, and a refusal
// may be for what nobody heard of.
func TestUnseen(t *testing.T) {
	h := good()
	for i := range h.Streams {
		h.Streams[i].Events = h.Streams[i].Events[:2-i]
	}
	if err := h.Check(); err != nil {
		t.Error("watchers that ended early:", err)
	}
	h.Streams = append(h.Streams, Stream{Start: 6, Events: []Event{{Added, "a", "a3", 7}, {Modified, "a", "a4", 8}}})
	if err := h.Check(); err != nil {
		t.Error("one that began afterwards:", err)
	}
	h.Ops = append(h.Ops,
		Op{Key: "a", Kind: Update, Prev: 8, Value: "a5", Outcome: Unknown, Start: 75 * ms, End: 82 * ms},
		Op{Key: "a", Kind: Delete, Prev: 8, Outcome: Conflict, Start: 80 * ms, End: 82 * ms})
	if err := h.Check(); err == nil || !strings.Contains(err.Error(), "without a reason") {
		t.Error("refused for an update that was not stored:", err)
	}
	h.Log = append(h.Log, Event{Modified, "a", "a5", 9})
	if err := h.Check(); err != nil {
		t.Error("refused for an update without an answer:", err)
	}
}

// Of two deletes of one version whose outcomes are not known either may have
// been the one: what was absent from the first on is no error, whichever was
// recorded first. A delete that was answered is known to be the one.
func TestDeletesOfUnknownOutcome(t *testing.T) {
	early := Op{Key: "a", Kind: Delete, Prev: 4, Outcome: Unknown, Start: 36 * ms, End: 53 * ms}
	late := Op{Key: "a", Kind: Delete, Prev: 4, Outcome: Unknown, Start: 45 * ms, End: 53 * ms}
	with := func(deletes ...Op) *History {
		h := good()
		h.Ops[9].Start, h.Ops[9].End = 37*ms, 44*ms // read as absent, after early began and before late did
		h.Ops = slices.Replace(h.Ops, 8, 9, deletes...)
		return h
	}
	for _, deletes := range [][]Op{{early, late}, {late, early}} {
		if err := with(deletes...).Check(); err != nil {
			t.Errorf("deletes from %v and %v: %v", deletes[0].Start, deletes[1].Start, err)
		}
	}
	answered := late
	answered.Outcome = OK
	for _, deletes := range [][]Op{{late}, {early, answered}, {answered, early}} {
		if err := with(deletes...).Check(); err == nil || !strings.Contains(err.Error(), "without a reason") {
			t.Errorf("absent before the only delete that can have been: %v", err)
		}
	}
}

// The checker accepts a good history and refuses each that is bad in one way.
func TestChecker(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatalf("a good history: %v", err)
	}
	for _, tc := range []struct {
		name   string
		change func(*History)
		want   string
	}{
		{"event dropped", func(h *History) { h.Streams[0].Events = slices.Delete(h.Streams[0].Events, 3, 4) }, "missed MODIFIED b at revision 5"},
		{"first event after a resume dropped", func(h *History) { h.Streams[1].Events = h.Streams[1].Events[1:] }, "missed MODIFIED a at revision 4"},
		{"event repeated", func(h *History) { s := &h.Streams[0]; s.Events = slices.Insert(s.Events, 3, s.Events[2]) }, "comes after one at 4"},
		{"events swapped", func(h *History) { e := h.Streams[1].Events; e[0], e[1] = e[1], e[0] }, "missed MODIFIED a at revision 4"},
		{"event of what was before", func(h *History) { s := &h.Streams[1]; s.Events = slices.Insert(s.Events, 0, h.Streams[0].Events[1]) }, "comes after one at 3"},
		{"wrong type", func(h *History) { h.Streams[0].Events[5].Type = Modified }, "want {Type:ADDED"},
		{"deletion as a change", func(h *History) { h.Streams[0].Events[4].Type = Modified }, "want {Type:DELETED"},
		{"wrong value", func(h *History) { h.Streams[1].Events[1].Value = "b1" }, "Value:b1 Revision:5}, want"},
		{"deleted in another state", func(h *History) { h.Streams[0].Events[4].Value = "a1" }, "want {Type:DELETED"},
		{"lost write", func(h *History) {
			h.Ops = append(h.Ops, Op{Key: "b", Kind: Patch, Value: "b9", Revision: 9, Start: 80 * ms, End: 81 * ms})
		}, "was not stored"},
		{"event of a write that was not", func(h *History) {
			h.Streams[0].Events = append(h.Streams[0].Events, Event{Modified, "b", "b9", 9})
		}, "was not stored"},
		{"answer with another's value", func(h *History) { h.Ops[2].Value = "a1" }, "was not stored"},
		{"write of nobody", func(h *History) { h.Log = append(h.Log, Event{Modified, "b", "b9", 9}) }, "nobody's"},
		{"deletion of nobody", func(h *History) { h.Log = append(h.Log, Event{Deleted, "b", "b2", 9}) }, "nobody's"},
		{"stale read", func(h *History) { h.Ops[4].Start, h.Ops[4].End = 42*ms, 43*ms }, "revision 4 was answered before 42ms"},
		{"stale read after a read", func(h *History) {
			h.Ops[5].End = 21 * ms
			h.Ops[4].Start, h.Ops[4].End = 22*ms, 23*ms
		}, "read revision 4 before"},
		{"read of the future", func(h *History) { h.Ops[5].Start, h.Ops[5].End = 10*ms, 11*ms }, "read revision 4 before it was written"},
		{"writes against time", func(h *History) { h.Ops[0].Start, h.Ops[0].End = 40*ms, 41*ms }, "read revision 2 before it was written"},
		{"wrong version replaced", func(h *History) { h.Ops[2].Prev = 1 }, "replaced another"},
		{"created twice", func(h *History) { h.Ops[2].Kind = Create }, "while it existed"},
		{"patched from nothing", func(h *History) { h.Ops[0].Kind = Patch }, "while it did not exist"},
		{"refused and done", func(h *History) { h.Ops[12].Outcome = Conflict }, "took effect"},
		{"delete without effect", func(h *History) { h.Ops[8].Prev = 7 }, "had no effect"},
		{"absent while it was there", func(h *History) { h.Ops[9].Start, h.Ops[9].End = 13*ms, 14*ms }, "without a reason"},
		{"conflict with nothing", func(h *History) { h.Ops[3].Start, h.Ops[3].End = 11*ms, 11*ms }, "without a reason"},
		{"there already while absent", func(h *History) { h.Ops[11].Start, h.Ops[11].End = 51*ms, 52*ms }, "without a reason"},
		{"deletion dropped", func(h *History) {
			for i := range h.Streams {
				s := &h.Streams[i]
				s.Events = slices.DeleteFunc(s.Events, func(e Event) bool { return e.Type == Deleted })
			}
		}, "missed DELETED a at revision 6"},
		{"one write twice", func(h *History) { h.Ops = append(h.Ops, h.Ops[12]) }, "two writes"},
	} {
		h := good()
		tc.change(h)
		if err := h.Check(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", tc.name, err, tc.want)
		}
	}
}
