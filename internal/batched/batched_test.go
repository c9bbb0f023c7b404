package batched

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counted is a connection that counts its writes and holds them up.
type counted struct {
	net.Conn
	mu     sync.Mutex
	writes int
	got    bytes.Buffer
	hold   chan struct{} // nil: writes pass
	fail   error
	closed bool
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	hold := c.hold
	c.mu.Unlock()
	if hold != nil {
		<-hold
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return 0, c.fail
	}
	if c.closed {
		return 0, net.ErrClosed
	}
	c.writes++
	return c.got.Write(p)
}

func (c *counted) SetWriteDeadline(time.Time) error { return nil }

func (c *counted) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

// What is written while a write is on its way goes out in one.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := &counted{hold: make(chan struct{})}
		c := Conn(under)
		var want []byte
		for i := range 100 {
			p := bytes.Repeat([]byte{byte(i)}, 100)
			want = append(want, p...)
			if n, err := c.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
			if i == 0 {
				synctest.Wait() // it is being sent
			}
		}
		close(under.hold)
		synctest.Wait()
		if !bytes.Equal(under.got.Bytes(), want) {
			t.Errorf("%d bytes sent of %d, or others", under.got.Len(), len(want))
		}
		if under.writes != 2 {
			t.Errorf("%d system calls", under.writes)
		}
	})
}

// Whoever writes more than waits at most, waits.
func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := &counted{hold: make(chan struct{})}
		c := Conn(under)
		written := 0
		go func() {
			for range 500 {
				if _, err := c.Write(make([]byte, 1<<10)); err != nil {
					t.Error(err)
				}
				written++
			}
		}()
		synctest.Wait()
		if written > 2*most>>10 {
			t.Errorf("%d KiB were taken while nothing could be sent", written)
		}
		close(under.hold)
		synctest.Wait()
		if under.got.Len() != 500<<10 {
			t.Errorf("%d bytes sent", under.got.Len())
		}
	})
}

// An error in sending is told to the next writer, and for good.
func TestError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		c := Conn(&counted{fail: broken})
		if _, err := c.Write([]byte("a")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for range 2 {
			if _, err := c.Write([]byte("b")); err != broken {
				t.Error(err)
			}
		}
		if _, err := c.Write(make([]byte, 2*most)); err != broken {
			t.Error(err)
		}
	})
}

// Nothing written is lost by a deadline or by Close, which come after it.
func TestSettle(t *testing.T) {
	for name, end := range map[string]func(net.Conn) error{
		"deadline": func(c net.Conn) error { return c.SetWriteDeadline(time.Now()) },
		"close":    net.Conn.Close,
	} {
		t.Run(name, func(t *testing.T) {
			there, here := pair(t)
			c := Conn(here)
			want := make([]byte, 0, 1<<20)
			go func() {
				for n := 0; n < cap(want); {
					p := make([]byte, min(1+rand.IntN(20<<10), cap(want)-n))
					if _, err := c.Write(p); err != nil {
						t.Error(err)
					}
					n += len(p)
				}
				if err := end(c); err != nil {
					t.Error(err)
				}
				c.Close()
			}()
			if got, err := io.Copy(io.Discard, there); err != nil || got != int64(cap(want)) {
				t.Errorf("%d bytes came of %d: %v", got, cap(want), err)
			}
		})
	}
}

// A deadline ends a write that the other side does not take.
func TestStuck(t *testing.T) {
	_, here := pair(t)
	c := Conn(here)
	done := make(chan error)
	go func() {
		for {
			if _, err := c.Write(make([]byte, 10<<10)); err != nil {
				done <- err
				return
			}
		}
	}()
	if err := c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// BenchmarkRecords sends a megabyte in pieces of a TLS record's size.
func BenchmarkRecords(b *testing.B) {
	there, here := pair(b)
	go func() { _, _ = io.Copy(io.Discard, there) }()
	c := Conn(here)
	record := make([]byte, 16<<10+31)
	b.SetBytes(64 * int64(len(record)))
	for b.Loop() {
		for range 64 {
			if _, err := c.Write(record); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func pair(t testing.TB) (there, here net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if there, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if here, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { there.Close(); here.Close() })
	return there, here
}
