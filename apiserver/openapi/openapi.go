// Package openapi serves the OpenAPI documents of the built-in kinds: a
// request for /openapi/v2 or below /openapi/v3 goes in, bytes that were
// compressed when the tree was generated come out. Nothing is decoded at
// start, and nothing per request for a client that accepts gzip.
package openapi

import (
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/munnerz/goautoneg"
)

//go:generate go run ./gen .

//go:embed zz_documents
var documents embed.FS

// indexed is one document: its path below /openapi/, the name of its files and
// the hash of its JSON form.
type indexed struct{ path, file, hash string }

// The media types beside JSON, which kubectl and client-go ask for.
const (
	v2Binary           = "com.github.proto-openapi.spec.v2.v1.0+protobuf"
	v2BinaryDeprecated = "com.github.proto-openapi.spec.v2@v1.0+protobuf"
	v3Binary           = "com.github.proto-openapi.spec.v3.v1.0+protobuf"
	v3BinaryDeprecated = "com.github.proto-openapi.spec.v3@v1.0+protobuf"
)

// Handler serves /openapi/v2, /openapi/v3 and what is below it, as JSON and as
// protobuf. It is safe for concurrent use and wants the whole URL path.
func Handler() http.Handler {
	s := &server{byPath: sync.OnceValue(func() map[string]indexed {
		m := make(map[string]indexed, len(index))
		for _, d := range index {
			m[d.path] = d
		}
		return m
	}), root: sync.OnceValue(func() []byte { return discovery(nil) })}
	return s
}

type server struct {
	byPath func() map[string]indexed
	root   func() []byte
	extra  Extra // may be nil
}

// discovery is the document that lists the v3 documents, each with its hash
// so that clients may keep it for ever.
func discovery(extra map[string]string) []byte {
	type location struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]location{}
	for _, d := range index {
		if path, ok := strings.CutPrefix(d.path, "v3/"); ok {
			paths[path] = location{"/openapi/v3/" + path + "?hash=" + url.QueryEscape(d.hash)}
		}
	}
	for path, hash := range extra {
		paths[path] = location{"/openapi/v3/" + path + "?hash=" + url.QueryEscape(hash)}
	}
	text, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		panic(err) // strings only
	}
	return text
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/openapi/")
	binary := []string{v3Binary, v3BinaryDeprecated}
	switch path {
	case "v2":
		binary = []string{v2Binary, v2BinaryDeprecated}
	case "v3":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8") // as upstream's
		text := s.root()
		if s.extra != nil {
			if more := s.extra.Documents(); len(more) > 0 {
				text = discovery(more)
			}
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(text) // the client has gone, if this fails
		}
		return
	}
	if s.serveExtra(w, r, path) {
		return
	}
	doc, ok := s.byPath()[path]
	if !ok {
		w.WriteHeader(http.StatusNotFound) // as upstream's, which says no more
		return
	}
	media, suffix, ok := negotiate(r.Header.Get("Accept"), binary)
	if !ok {
		notAcceptable(w)
		return
	}
	if asked := r.URL.Query().Get("hash"); asked != "" {
		// A document under its own hash never changes; under another, the
		// client has an old index.
		if asked != doc.hash {
			moved(w, "/openapi/"+doc.path+"?hash="+doc.hash, doc.hash, media)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	if err := send(w, r, doc, media, suffix); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// notAcceptable says that no media type asked for is there.
func notAcceptable(w http.ResponseWriter) {
	w.Header().Set("Vary", "Accept")
	w.WriteHeader(http.StatusNotAcceptable)
}

// moved sends who asks for a document under an old hash to the one that is.
func moved(w http.ResponseWriter, to, hash, media string) {
	h := w.Header()
	h.Set("Location", to)
	h.Set("ETag", strconv.Quote(hash))
	h.Set("Vary", "Accept")
	h.Set("Content-Type", media)
	w.WriteHeader(http.StatusMovedPermanently)
}

// negotiate chooses between JSON and the binary media types by the Accept
// header; it returns the content type and the suffix of the file's name.
func negotiate(accept string, binary []string) (media, suffix string, ok bool) {
	if accept == "" {
		return "application/json", ".json.gz", true
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		if clause.Type != "application" && clause.Type != "*" {
			continue
		}
		switch clause.SubType {
		case "json", "*":
			return "application/json", ".json.gz", true
		}
		for _, b := range binary {
			if clause.SubType == b {
				return "application/" + binary[0], ".pb.gz", true
			}
		}
	}
	return "", "", false
}

// send writes a document, as it is embedded or decompressed.
func send(w http.ResponseWriter, r *http.Request, doc indexed, media, suffix string) error {
	h := w.Header()
	h.Set("ETag", strconv.Quote(doc.hash))
	h.Set("Vary", "Accept, Accept-Encoding")
	for _, tag := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == "*" || strings.Trim(tag, `"`) == doc.hash {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	f, err := documents.Open("zz_documents/" + doc.file + suffix)
	if err != nil {
		return fmt.Errorf("open the OpenAPI document %s: %w", doc.path, err)
	}
	defer f.Close()
	h.Set("Content-Type", media)
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		return write(w, r, f)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("decompress the OpenAPI document %s: %w", doc.path, err)
	}
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, z) // the client has gone, if this fails
	}
	return nil
}

// write sends a file's bytes as they are.
func write(w http.ResponseWriter, r *http.Request, f fs.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, f) // the client has gone, if this fails
	}
	return nil
}

// acceptsGzip reads an Accept-Encoding header.
func acceptsGzip(header string) bool {
	for _, part := range strings.Split(header, ",") {
		coding, q, _ := strings.Cut(part, ";")
		if strings.TrimSpace(coding) != "gzip" {
			continue
		}
		value, found := strings.CutPrefix(strings.TrimSpace(q), "q=")
		if !found {
			return true
		}
		weight, err := strconv.ParseFloat(value, 64)
		return err == nil && weight > 0
	}
	return false
}
