package store

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/store/etcd"
)

// TestRing holds the ring against a plain slice.
func TestRing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		limit := History{Age: time.Duration(rnd.IntN(50)), Bytes: int64(rnd.IntN(20000)), Least: 1 + rnd.IntN(20)}
		r := ring{limit: limit}
		r.reset(10)
		var all []*change
		rev, when := int64(10), time.Unix(0, 0)
		for range 300 {
			rev += int64(rnd.IntN(3)) // a revision may have several changes
			if len(all) == 0 {
				rev = max(rev, 11)
			}
			when = when.Add(time.Duration(rnd.IntN(3)))
			c := &change{rev: rev, when: when, entry: &Entry{size: int32(rnd.IntN(1000))}}
			all = append(all, c)
			r.add(c)

			kept := all[len(all)-r.n:]
			for i, want := range kept {
				if r.get(r.first+int64(i)) != want {
					t.Fatal("the ring holds other changes")
				}
			}
			if r.next() != int64(len(all)) {
				t.Fatalf("next is %d after %d changes", r.next(), len(all))
			}
			floor := int64(10)
			if n := len(all) - r.n; n > 0 {
				floor = all[n-1].rev
			}
			if r.floor != floor {
				t.Fatalf("floor %d, want %d", r.floor, floor)
			}
			if r.n > limit.Least && (r.bytes > limit.Bytes || when.Sub(kept[0].when) > limit.Age) {
				t.Fatalf("%d changes of %d bytes are too many", r.n, r.bytes)
			}
			from := floor + int64(rnd.IntN(int(rev-floor)+2))
			n := r.after(from)
			if n < r.next() && r.get(n).rev <= from || n > r.first && r.get(n-1).rev > from {
				t.Fatalf("after(%d) is %d", from, n)
			}
		}
	}
}

// TestEncodingsBound keeps within the bound what is used.
func TestEncodingsBound(t *testing.T) {
	const size, room = 100, 20
	b := newEncodings(size * room)
	entries := make([]*Entry, 200)
	for n := range entries {
		entries[n] = &Entry{encodings: encodings{bound: b}}
		for _, media := range []string{"other", "json"} {
			if _, err := entries[n].Encoded(NewFormat(media, schema.GroupVersion{}), func() ([]byte, error) { return make([]byte, size), nil }); err != nil {
				t.Fatal(err)
			}
		}
		entries[0].encodings.peek(NewFormat("json", schema.GroupVersion{})) // asked for all the time
	}
	kept := 0
	for _, e := range entries {
		kept += len(e.encodings.first.bytes)
		for _, enc := range e.encodings.more {
			kept += len(enc.bytes)
		}
	}
	if kept > size*room || kept != int(b.used) {
		t.Errorf("%d bytes are kept, %d counted, %d allowed", kept, b.used, size*room)
	}
	if entries[0].encodings.peek(NewFormat("json", schema.GroupVersion{})) == nil {
		t.Error("the one in use was dropped")
	}
	if entries[len(entries)-1].encodings.peek(NewFormat("json", schema.GroupVersion{})) == nil {
		t.Error("the newest was dropped")
	}
}

// TestCompactor plays two servers that share the work, as upstream's do.
func TestCompactor(t *testing.T) {
	srv, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	ctx := t.Context()
	put := func() int64 {
		resp, err := srv.Put(ctx, "/registry/x", "y")
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	round := func(c *compactor) {
		if err := c.round(ctx, srv); err != nil {
			t.Fatal(err)
		}
	}
	mark := func() (value string, version int64) {
		resp, err := srv.Get(ctx, compactKey)
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Kvs) == 0 {
			return "", 0
		}
		return string(resp.Kvs[0].Value), resp.Kvs[0].Version
	}
	readable := func(rev int64) bool {
		_, err := srv.Get(ctx, "/registry/x", clientv3.WithRev(rev))
		return err == nil
	}
	var a, b compactor
	first := put()
	round(&a) // a makes the mark
	if _, v := mark(); v != 1 || !readable(first) {
		t.Fatalf("mark %d; nothing is old yet", v)
	}
	round(&b) // b sees that a was first
	if _, v := mark(); v != 1 {
		t.Fatalf("mark %d", v)
	}
	idle := b.revision
	round(&a)
	round(&b) // nothing has changed: no work
	if _, v := mark(); v != 1 || b.revision != idle {
		t.Fatalf("mark %d although nothing has changed", v)
	}
	put()
	last := put()
	round(&b) // compacts to where the history stood a round ago
	value, v := mark()
	if v != 2 || value != strconv.FormatInt(idle, 10) {
		t.Fatalf("mark %q %d, want %d", value, v, idle)
	}
	if readable(first) || !readable(idle) || !readable(last) {
		t.Errorf("readable: %v %v %v", readable(first), readable(idle), readable(last))
	}
	round(&a) // a lost this one
	if _, v := mark(); v != 2 {
		t.Fatalf("mark %d", v)
	}
	if a.compacted != idle || b.compacted != idle {
		t.Errorf("compacted %d and %d, want %d of both", a.compacted, b.compacted, idle)
	}
}

func TestContinueToken(t *testing.T) {
	for _, start := range []string{"a\x00", "ns/a\x00", "ns/ä b\x00"} {
		tok, err := encodeContinue(start, 7)
		if err != nil {
			t.Fatal(err)
		}
		got, rev, err := decodeContinue(tok)
		if err != nil || got != start || rev != 7 {
			t.Errorf("%q came back as %q, %d, %v", start, got, rev, err)
		}
	}
}

// How many entries a list is cut to: a list that goes on at revision 0 is cut
// where etcd serves it, and comes whole only from the cache.
func TestPlannedLimit(t *testing.T) {
	tok, err := encodeContinue("a\x00", 7)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		opts      ListOptions
		limit, at int64
	}{
		{ListOptions{Limit: 2}, 2, 0},
		{ListOptions{Limit: 2, ResourceVersion: "0"}, 0, 0},
		{ListOptions{Limit: 2, Continue: tok}, 2, 7},
		{ListOptions{Limit: 2, Continue: tok, ResourceVersion: "0"}, 2, 7},
	} {
		if p, err := planList(c.opts); err != nil || p.limit != c.limit || p.at != c.at {
			t.Errorf("%+v: %+v %v", c.opts, p, err)
		}
	}
}

func FuzzContinueToken(f *testing.F) {
	f.Add("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0")
	f.Fuzz(func(t *testing.T, tok string) {
		start, rev, err := decodeContinue(tok)
		if err == nil && (rev == 0 || start == "" || start[0] == '/') {
			t.Errorf("accepted %q %d", start, rev)
		}
	})
}

func FuzzRevision(f *testing.F) {
	f.Add(int64(5))
	f.Fuzz(func(t *testing.T, rev int64) {
		room := make([]byte, 0, 24)
		if tail := appendRevision(room, rev); int(tail[1]) != len(tail)-2 || cap(tail) != cap(room) {
			t.Error(tail)
		}
	})
}
