package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Extra is what is published beside the built-in kinds: documents that are
// made when they are asked for. It has to be safe for concurrent use.
type Extra interface {
	// Documents lists further v3 documents, by path ("apis/example.com/v1"),
	// each with a hash that changes when the document does.
	Documents() map[string]string
	// V3 makes the document of a path that Documents lists, as JSON.
	V3(path string) ([]byte, error)
	// V2Hash changes when that changes which the v2 document gets in addition;
	// it is "" if there is nothing.
	V2Hash() string
	// V2 makes it: the paths and the definitions, each as a JSON object.
	V2() (paths, definitions []byte, err error)
}

// HandlerWith is Handler with further documents.
func HandlerWith(extra Extra) http.Handler {
	s := Handler().(*server)
	s.extra = extra
	return s
}

// Document is the JSON of a built-in document ("v3/apis/apps/v1").
func Document(path string) ([]byte, error) { return jsonOrBinary(path, ".json.gz") }

func jsonOrBinary(path, suffix string) ([]byte, error) {
	for _, d := range slices.Concat(index, optionalIndex) {
		if d.path != path {
			continue
		}
		return read(d, suffix)
	}
	return nil, fmt.Errorf("there is no OpenAPI document %s", path)
}

// read decompresses a document's file.
func read(d indexed, suffix string) ([]byte, error) {
	f, err := documents.Open("zz_documents/" + d.file + suffix)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// serveExtra answers what the extra documents have a part in; false leaves the
// request to the built-in ones.
func (s *server) serveExtra(w http.ResponseWriter, r *http.Request, path string) bool {
	if s.extra == nil {
		return false
	}
	var make func(binary bool) ([]byte, error)
	var hash string
	media := []string{v3Binary, v3BinaryDeprecated}
	if path == "v2" {
		media = []string{v2Binary, v2BinaryDeprecated}
		h := s.extra.V2Hash()
		if h == "" {
			return false
		}
		hash = s.byPath()["v2"].hash[:32] + h
		make = func(binary bool) ([]byte, error) {
			paths, definitions, err := s.extra.V2()
			if err != nil {
				return nil, err
			}
			return mergeV2(binary, paths, definitions)
		}
	} else {
		name, isV3 := strings.CutPrefix(path, "v3/")
		h, ok := s.extra.Documents()[name]
		if _, builtin := s.byPath()[path]; !isV3 || !ok || builtin {
			return false
		}
		hash = h
		make = func(binary bool) ([]byte, error) {
			text, err := s.extra.V3(name)
			if err != nil || !binary {
				return text, err
			}
			doc, err := ParseV3(text)
			if err != nil {
				return nil, err
			}
			return proto.Marshal(doc)
		}
	}
	s.sendMade(w, r, "/openapi/"+path, hash, media, make)
	return true
}

func (s *server) sendMade(w http.ResponseWriter, r *http.Request, path, hash string, binary []string, make func(binary bool) ([]byte, error)) {
	media, suffix, ok := negotiate(r.Header.Get("Accept"), binary)
	if !ok {
		notAcceptable(w)
		return
	}
	if asked := r.URL.Query().Get("hash"); asked != "" && asked != hash {
		moved(w, path+"?hash="+hash, hash, media)
		return
	}
	h := w.Header()
	h.Set("ETag", strconv.Quote(hash))
	h.Set("Vary", "Accept, Accept-Encoding")
	if strings.Contains(r.Header.Get("If-None-Match"), hash) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body, err := make(suffix == ".pb.gz")
	if err != nil {
		code := http.StatusInternalServerError
		if st := apierrors.APIStatus(nil); errors.As(err, &st) {
			code = int(st.Status().Code)
		}
		h.Del("ETag")
		http.Error(w, err.Error(), code)
		return
	}
	h.Set("Content-Type", media)
	if r.Method == http.MethodHead {
		return
	}
	if !acceptsGzip(r.Header.Get("Accept-Encoding")) {
		_, _ = w.Write(body) // the client has gone, if this fails
		return
	}
	h.Set("Content-Encoding", "gzip")
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is one
	_, _ = z.Write(body)
	_ = z.Close()
}

// mergeV2 adds paths and definitions to the built-in v2 document without
// reading it: JSON gets them put in where its objects begin, and protobuf
// readers merge what is appended.
func mergeV2(binary bool, paths, definitions []byte) ([]byte, error) {
	if binary {
		base, err := jsonOrBinary("v2", ".pb.gz")
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(map[string]any{
			"swagger": "2.0", "info": map[string]string{"title": "Kubernetes", "version": "unversioned"},
			"paths": json.RawMessage(paths), "definitions": json.RawMessage(definitions),
		})
		if err != nil {
			return nil, err
		}
		doc, err := ParseV2(text)
		if err != nil {
			return nil, fmt.Errorf("OpenAPI v2 beside the built-in kinds: %w", err)
		}
		more, err := proto.Marshal(&openapi_v2.Document{Paths: doc.Paths, Definitions: doc.Definitions})
		return append(base, more...), err
	}
	base, err := jsonOrBinary("v2", ".json.gz")
	if err != nil {
		return nil, err
	}
	// The document's own objects precede whatever is called so in them.
	type insert struct {
		at   int
		text []byte
	}
	var inserts []insert
	for _, part := range []struct {
		name string
		text []byte
	}{{"paths", paths}, {"definitions", definitions}} {
		head := []byte(`"` + part.name + `":{`)
		at := bytes.Index(base, head)
		if at < 0 {
			return nil, fmt.Errorf("the v2 document has no %s", part.name)
		}
		if len(part.text) > len("{}") {
			inserts = append(inserts, insert{at + len(head), part.text[1 : len(part.text)-1]})
		}
	}
	slices.SortFunc(inserts, func(a, b insert) int { return a.at - b.at })
	out := make([]byte, 0, len(base)+len(paths)+len(definitions)+2)
	from := 0
	for _, in := range inserts {
		out = append(append(append(out, base[from:in.at]...), in.text...), ',')
		from = in.at
	}
	return append(out, base[from:]...), nil
}
