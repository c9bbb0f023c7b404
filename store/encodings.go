package store

import (
	"sync"

	"github.com/coxswain/cox/internal/envelope"
)

// Encodings bounds the encoded bytes that all entries of a store keep
// together. What is not asked for again goes first.
type Encodings struct {
	max int64

	mu    sync.Mutex
	used  int64
	queue []slot // oldest first
	head  int
}

// slot is one kept encoding.
type slot struct {
	of     *encodings
	format Format
	size   int
}

func newEncodings(max int64) *Encodings { return &Encodings{max: max} }

// encodings is an entry's few encoded forms. Most entries are read in one or
// two formats, so a slice beats a map; the one that most have is in the entry
// itself, where a list finds it without waiting for more memory.
type encodings struct {
	bound *Encodings // nil: unbounded

	mu    sync.Mutex
	first encoding // without bytes: none
	more  []encoding
}

type encoding struct {
	format Format
	bytes  []byte
	// bytes[at:at+size] is the message, where they are what is stored in the
	// protobuf envelope: looked up once, since a list would wait for the memory
	// that it is in.
	at, size uint32
	used     bool // since the bound last looked
}

func (c *encodings) get(f Format, encode func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	if x := c.find(f); x != nil {
		c.mu.Unlock()
		return x.bytes, nil
	}
	// Encoding under the lock makes the other watchers of the object wait
	// for the bytes instead of making them again.
	b, err := encode()
	if err == nil {
		c.add(encoding{format: f, bytes: b})
	}
	c.mu.Unlock()
	if err == nil {
		c.bound.added(slot{c, f, len(b)})
	}
	return b, err
}

// peek returns what is at hand.
func (c *encodings) peek(f Format) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.find(f); x != nil {
		return x.bytes
	}
	return nil
}

// message returns the message in what is stored, if that is at hand and has
// one.
func (c *encodings) message() ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.find(formatStored)
	if x == nil || x.size == 0 {
		return nil, false
	}
	return x.bytes[x.at : x.at+x.size], true
}

// store keeps what is stored, which was made anyway.
func (c *encodings) store(b []byte) {
	x := encoding{format: formatStored, bytes: b}
	if m, ok := envelope.Open(b); ok {
		x.at, x.size = uint32(m.At), uint32(len(m.Raw))
	}
	c.mu.Lock()
	found := c.find(formatStored) != nil
	if !found {
		c.add(x)
	}
	c.mu.Unlock()
	if !found {
		c.bound.added(slot{c, formatStored, len(b)})
	}
}

// find is called under c.mu; nil is none.
func (c *encodings) find(f Format) *encoding {
	if x := &c.first; x.format == f && x.bytes != nil {
		x.used = true
		return x
	}
	for i := range c.more {
		if x := &c.more[i]; x.format == f {
			x.used = true
			return x
		}
	}
	return nil
}

// add is called under c.mu.
func (c *encodings) add(x encoding) {
	if c.first.bytes == nil {
		c.first = x
		return
	}
	c.more = append(c.more, x)
}

// evict drops an encoding unless it was used since the last attempt.
func (c *encodings) evict(f Format) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := &c.first; x.format == f && x.bytes != nil {
		if x.used {
			x.used = false
			return false
		}
		*x = encoding{}
		return true
	}
	for i := range c.more {
		if c.more[i].format != f {
			continue
		}
		if c.more[i].used {
			c.more[i].used = false
			return false
		}
		last := len(c.more) - 1
		c.more[i] = c.more[last]
		c.more[last] = encoding{}
		c.more = c.more[:last]
		return true
	}
	return true
}

func (b *Encodings) added(s slot) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += int64(s.size)
	b.queue = append(b.queue, s)
	// Each slot is looked at twice at most: used ones get a second chance.
	for tries := 2 * (len(b.queue) - b.head); b.used > b.max && tries > 0; tries-- {
		old := b.queue[b.head]
		b.queue[b.head] = slot{}
		b.head++
		if old.of.evict(old.format) {
			b.used -= int64(old.size)
		} else {
			b.queue = append(b.queue, old)
		}
	}
	if b.head > 64 && b.head > len(b.queue)/2 {
		n := copy(b.queue, b.queue[b.head:])
		clear(b.queue[n:])
		b.queue, b.head = b.queue[:n], 0
	}
}
