// Package batched makes connections that send what is written to them in short
// succession together: HTTP/2 writes an answer's headers and its body, and the
// events of many watches, one after the other, and each system call costs more
// than what it sends.
package batched

import (
	"net"
	"sync"
	"time"
)

const (
	// most is how much waits at most; whoever writes more sends it. It is what
	// the kernel sends at once over loopback: a system call and a segment's way
	// through the network stack cost about as much as copying that many bytes.
	most = 64 << 10
	// few is what waits as a rule.
	few = 16 << 10
	// patience is how long sending may take when the connection's deadline
	// changes or it is closed.
	patience = 2 * time.Second
)

// What waits to be sent on connections is in small buffers, and in large ones
// where it is much.
var (
	small = sync.Pool{New: func() any { b := make([]byte, 0, few+few/4); return &b }}
	large = sync.Pool{New: func() any { b := make([]byte, 0, most+few+few/4); return &b }}
)

// room returns b, or a larger buffer with what b holds, if n more bytes need
// it. One of the pool's own size is not exceeded but by who writes more than a
// TLS record.
func room(b *[]byte, n int) *[]byte {
	if len(*b)+n <= cap(*b) || cap(*b) > few+few/4 {
		return b
	}
	l := large.Get().(*[]byte)
	*l = append((*l)[:0], *b...)
	recycle(b)
	return l
}

// recycle gives a buffer to others.
func recycle(b *[]byte) {
	switch {
	case cap(*b) <= few+few/4:
		*b = (*b)[:0]
		small.Put(b)
	case cap(*b) <= 2*most:
		*b = (*b)[:0]
		large.Put(b)
	}
}

// Conn is c, on which writes return before what they write is sent, by a
// goroutine that they start. An error in sending is that of the next write. A
// change of the deadline, and Close, wait until what was written before has
// been sent, for a few seconds at most. c is the connection's from then on.
func Conn(c net.Conn) net.Conn { return &conn{Conn: c, sending: make(chan struct{}, 1)} }

type conn struct {
	net.Conn

	// sending is full while bytes go out, so that they do so in their order.
	sending chan struct{}

	mu      sync.Mutex
	waiting *[]byte   // nil: nothing
	out     time.Time // since when bytes are being sent; zero: none are
	err     error     // of sending; what comes later is not sent
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return 0, c.err
	}
	if len(p) >= most && c.waiting == nil {
		c.mu.Unlock()
		return c.through(p)
	}
	begun := c.waiting != nil
	if !begun {
		c.waiting = small.Get().(*[]byte)
	}
	c.waiting = room(c.waiting, len(p))
	*c.waiting = append(*c.waiting, p...)
	full := len(*c.waiting) >= most
	c.mu.Unlock()
	switch {
	case full:
		if err := c.send(); err != nil {
			return 0, err
		}
	case !begun:
		// Its turn comes when this goroutine waits, or a CPU has nothing else
		// to do.
		go func() { _ = c.send() }()
	}
	return len(p), nil
}

// through sends p by itself.
func (c *conn) through(p []byte) (int, error) {
	c.sending <- struct{}{}
	defer func() { <-c.sending }()
	if err := c.drain(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.out = time.Now()
	c.mu.Unlock()
	n, err := c.Conn.Write(p)
	c.sent(err)
	return n, err
}

// send sends what waits.
func (c *conn) send() error {
	c.sending <- struct{}{}
	defer func() { <-c.sending }()
	return c.drain()
}

// drain sends what waits; c.sending is the caller's.
func (c *conn) drain() error {
	c.mu.Lock()
	b := c.waiting
	if b == nil || c.err != nil {
		defer c.mu.Unlock()
		return c.err
	}
	c.waiting, c.out = nil, time.Now()
	c.mu.Unlock()
	_, err := c.Conn.Write(*b)
	c.sent(err)
	recycle(b)
	return err
}

func (c *conn) sent(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = time.Time{}
	if c.err == nil {
		c.err = err
	}
}

// settle waits until what was written has been sent, or could not be in time.
func (c *conn) settle(deadline time.Time) {
	c.mu.Lock()
	begin, busy := c.out, c.err == nil && (c.waiting != nil || !c.out.IsZero())
	c.mu.Unlock()
	if !busy {
		return
	}
	if begin.IsZero() {
		begin = time.Now()
	}
	limit := begin.Add(patience) // who has not read for so long is not waited for
	if deadline.After(time.Now()) && deadline.Before(limit) {
		limit = deadline
	}
	_ = c.Conn.SetWriteDeadline(limit)
	_ = c.send()
}

// SetWriteDeadline implements net.Conn, for what is written from now on.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.settle(t)
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn; for writes it is that of what is written
// from now on.
func (c *conn) SetDeadline(t time.Time) error {
	c.settle(t)
	return c.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.settle(time.Time{})
	return c.Conn.Close()
}
