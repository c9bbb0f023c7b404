package wire

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// gzipFrom is the size in bytes from which an answer is compressed for a
// client that accepts it.
const gzipFrom = 128 << 10

var gzips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return z
}}

// Respond writes an answer whose pieces follow each other. contentType and
// code are sent as they are; a large answer is compressed if the request
// allows it; pretty indents JSON.
func Respond(w http.ResponseWriter, r *http.Request, code int, contentType string, pieces [][]byte, pretty bool) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	if pretty {
		var buf bytes.Buffer
		if json.Indent(&buf, bytes.TrimSpace(join(pieces)), "", "  ") == nil {
			pieces = [][]byte{buf.Bytes()}
		}
	}
	size := Size(pieces)
	if size >= gzipFrom && r.Method == http.MethodGet && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		z := gzips.Get().(*gzip.Writer)
		z.Reset(w)
		if writePieces(z, pieces) == nil {
			_ = z.Close() // the client is gone otherwise
		}
		z.Reset(nil)
		gzips.Put(z)
		return
	}
	h.Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(code)
	_ = writePieces(w, pieces) // a failed write means that the client is gone
}

// buffers are what answers are gathered in before they are written: each write
// to an HTTP/2 stream waits until its connection has taken all of it, which
// costs several changes of goroutines.
var (
	small = sync.Pool{New: func() any { b := make([]byte, 0, 32<<10); return &b }}
	large = sync.Pool{New: func() any { b := make([]byte, 0, 256<<10); return &b }}
)

// writePieces gathers small pieces, so that a list of many small items does
// not become as many small writes.
func writePieces(w io.Writer, pieces [][]byte) error {
	if len(pieces) == 1 {
		_, err := w.Write(pieces[0])
		return err
	}
	buffers := &small
	if Size(pieces) > 64<<10 {
		buffers = &large
	}
	bp := buffers.Get().(*[]byte)
	buf := (*bp)[:0]
	defer func() { *bp = buf[:0]; buffers.Put(bp) }()
	for _, p := range pieces {
		if len(buf)+len(p) > cap(buf) {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
			if len(p) > cap(buf)/2 {
				if _, err := w.Write(p); err != nil {
					return err
				}
				continue
			}
		}
		buf = append(buf, p...)
	}
	_, err := w.Write(buf)
	return err
}

func acceptsGzip(r *http.Request) bool {
	for _, v := range r.Header["Accept-Encoding"] {
		for _, e := range strings.Split(v, ",") {
			name, q, _ := strings.Cut(strings.TrimSpace(e), ";")
			if name == "gzip" && strings.TrimSpace(q) != "q=0" {
				return true
			}
		}
	}
	return false
}

// Pretty says whether JSON is to be indented: when asked for, and by default
// for the clients that a person looks at.
func Pretty(r *http.Request, a Accept) bool {
	if a.Media != JSON {
		return false
	}
	if a.Pretty {
		return true
	}
	if r.URL.RawQuery != "" {
		if v, ok := r.URL.Query()["pretty"]; ok && len(v) > 0 {
			b, err := strconv.ParseBool(v[0])
			return err != nil || b
		}
	}
	ua := r.UserAgent()
	return strings.HasPrefix(ua, "curl") || strings.HasPrefix(ua, "Wget") || strings.HasPrefix(ua, "Mozilla/5.0")
}
