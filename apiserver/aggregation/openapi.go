package aggregation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/openapi"
)

// The most bytes of what another server publishes that are read.
const (
	mostIndex    = 4 << 20
	mostDocument = 16 << 20
)

// published is what a server publishes of its group version in OpenAPI.
type published struct {
	v3    string // a hash that changes with the v3 document; "" without one
	tag   string // the ETag of the v2 document
	sum   [sha256.Size]byte
	v2    *part // nil without one that can be used
	v2sum string
}

// part is a part of a v2 document: what is below the paths of one group
// version, and the definitions that it uses.
type part struct {
	paths       map[string]json.RawMessage
	definitions map[string]json.RawMessage
}

// readDocuments looks what the server publishes now. What it does not answer
// stays as it was.
func (b *backend) readDocuments(ctx context.Context) error {
	now := published{}
	if old := b.documents.Load(); old != nil {
		now = *old
	}
	err := errors.Join(b.readV3(ctx, &now), b.readV2(ctx, &now))
	b.documents.Store(&now)
	return err
}

func (b *backend) readV3(ctx context.Context, now *published) error {
	code, _, body, err := b.fetch(ctx, "/openapi/v3", "", mostIndex)
	if code == http.StatusNotFound {
		now.v3 = ""
		return nil
	}
	if err != nil || code != http.StatusOK {
		return fmt.Errorf("the index of its OpenAPI v3 documents (status %d): %w", code, err)
	}
	v3, err := indexed(body, "apis/"+b.spec.Group+"/"+b.spec.Version)
	if err == nil {
		now.v3 = v3
	}
	return err
}

// indexed is a hash of where an index of OpenAPI v3 documents says that one is,
// "" if it names none. It is one of our own: its form is then known, whatever
// the server says.
func indexed(text []byte, path string) (string, error) {
	var index struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return "", fmt.Errorf("the index of its OpenAPI v3 documents: %w", err)
	}
	at, ok := index.Paths[path]
	if !ok {
		return "", nil
	}
	return fmt.Sprintf("%X", sha256.Sum256([]byte(at.URL))), nil
}

func (b *backend) readV2(ctx context.Context, now *published) error {
	code, header, body, err := b.fetch(ctx, "/openapi/v2", now.tag, mostDocument)
	switch {
	case code == http.StatusNotModified && now.tag != "":
		return nil
	case code == http.StatusNotFound:
		now.v2, now.v2sum, now.tag = nil, "", ""
		return nil
	case err != nil || code != http.StatusOK:
		return fmt.Errorf("its OpenAPI v2 document (status %d): %w", code, err)
	}
	now.tag = header.Get("Etag")
	sum := sha256.Sum256(body)
	if sum == now.sum {
		return nil
	}
	now.sum = sum
	now.v2, err = partOf(body, schema.GroupVersion{Group: b.spec.Group, Version: b.spec.Version})
	now.v2sum = ""
	if now.v2 != nil {
		now.v2sum = fmt.Sprintf("%X", sum)
	}
	return err
}

// Documents lists the v3 documents of other servers. See openapi.Elsewhere.
func (a *Aggregator) Documents() map[string]string {
	out := map[string]string{}
	for gv, b := range *a.state.Load() {
		if d := b.documents.Load(); d != nil && d.v3 != "" {
			out["apis/"+gv.String()] = d.v3
		}
	}
	return out
}

// V3 asks the server for its document. See openapi.Elsewhere.
func (a *Aggregator) V3(path string) ([]byte, error) {
	gv, err := schema.ParseGroupVersion(strings.TrimPrefix(path, "apis/"))
	b := (*a.state.Load())[gv]
	if err != nil || b == nil || !b.available.Load() {
		return nil, apierrors.NewServiceUnavailable("service unavailable")
	}
	code, _, body, err := b.fetch(context.Background(), "/openapi/v3/"+path, "", mostDocument)
	if err == nil && (code != http.StatusOK || !json.Valid(body)) {
		err = fmt.Errorf("the answer has status %d and %d bytes", code, len(body))
	}
	if err != nil {
		return nil, apierrors.NewServiceUnavailable("error trying to reach service: " + err.Error())
	}
	return body, nil
}

// V2Hash changes with what V2 returns. See openapi.Elsewhere.
func (a *Aggregator) V2Hash() string {
	h, some := sha256.New(), false
	state := *a.state.Load()
	for _, gv := range sorted(state) {
		if d := state[gv].documents.Load(); d != nil && d.v2 != nil {
			fmt.Fprintln(h, gv, d.v2sum)
			some = true
		}
	}
	if !some {
		return ""
	}
	return fmt.Sprintf("%X", h.Sum(nil))
}

// V2 is what other servers add to the v2 document. See openapi.Elsewhere.
func (a *Aggregator) V2(taken func(string) bool) (paths, definitions map[string]json.RawMessage) {
	paths, definitions = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	state := *a.state.Load()
	for _, gv := range sorted(state) {
		if d := state[gv].documents.Load(); d != nil && d.v2 != nil {
			d.v2.addTo(paths, definitions, taken)
		}
	}
	return paths, definitions
}

func sorted(state map[schema.GroupVersion]*backend) []schema.GroupVersion {
	return slices.SortedFunc(maps.Keys(state), func(a, b schema.GroupVersion) int { return strings.Compare(a.String(), b.String()) })
}

// addTo adds what is not there yet. Kubernetes' own definitions mean what they
// mean here; another that has the name of one of someone else's gets a new
// name.
func (p *part) addTo(paths, definitions map[string]json.RawMessage, taken func(string) bool) {
	var rename [][2][]byte
	names := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(p.definitions)) {
		have, there := definitions[name]
		switch {
		case taken(name) && strings.HasPrefix(name, "io.k8s."), there && bytes.Equal(have, p.definitions[name]):
			continue
		case !taken(name) && !there:
			names[name] = name
			continue
		}
		for i := 2; ; i++ {
			next := fmt.Sprintf("%s_v%d", name, i)
			_, there := definitions[next]
			_, own := p.definitions[next]
			if !there && !own && !taken(next) {
				names[name] = next
				rename = append(rename, [2][]byte{reference(name), reference(next)})
				break
			}
		}
	}
	renamed := func(text json.RawMessage) json.RawMessage {
		for _, r := range rename {
			text = bytes.ReplaceAll(text, r[0], r[1])
		}
		return text
	}
	for name, as := range names {
		definitions[as] = renamed(p.definitions[name])
	}
	for path, text := range p.paths {
		if !taken(path) {
			paths[path] = renamed(text)
		}
	}
}

const definitionRef = "#/definitions/"

// reference is how a definition is named in JSON that this package has written.
func reference(name string) []byte {
	text, _ := json.Marshal(definitionRef + name) // a string
	return text
}

// partOf reads a server's v2 document and takes its part of one group version.
// A document that would make the whole unreadable is refused: one that is no
// valid OpenAPI, or refers to what is not in it.
func partOf(text []byte, gv schema.GroupVersion) (*part, error) {
	var doc struct {
		Paths       map[string]any `json:"paths"`
		Definitions map[string]any `json:"definitions"`
		Parameters  map[string]any `json:"parameters"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("its OpenAPI v2 document: %w", err)
	}
	c := &collector{definitions: doc.Definitions, parameters: doc.Parameters, wanted: map[string]bool{}, sizes: map[string]int{}, gv: gv}
	out := &part{paths: map[string]json.RawMessage{}, definitions: map[string]json.RawMessage{}}
	prefix := "/apis/" + gv.String() + "/"
	for path, v := range doc.Paths {
		if strings.HasPrefix(path, prefix) {
			out.paths[path] = c.encode(v)
		}
	}
	for name, v := range doc.Definitions {
		if c.ofGroup(v) {
			c.want(name)
		}
	}
	for len(c.queue) > 0 {
		name := c.queue[0]
		c.queue = c.queue[1:]
		out.definitions[name] = c.encode(c.definitions[name])
	}
	if c.err != nil {
		return nil, fmt.Errorf("its OpenAPI v2 document: %w", c.err)
	}
	if len(out.paths) == 0 && len(out.definitions) == 0 {
		return nil, nil
	}
	whole, err := json.Marshal(map[string]any{
		"swagger": "2.0", "info": map[string]string{"title": "Kubernetes", "version": "unversioned"},
		"paths": out.paths, "definitions": out.definitions,
	})
	if err != nil {
		return nil, fmt.Errorf("its OpenAPI v2 document: %w", err)
	}
	if _, err := openapi.ParseV2(whole); err != nil {
		return nil, fmt.Errorf("its OpenAPI v2 document: %w", err)
	}
	return out, nil
}

// collector gathers the definitions that parts of a document use.
type collector struct {
	definitions, parameters map[string]any
	gv                      schema.GroupVersion
	wanted                  map[string]bool
	queue                   []string
	sizes                   map[string]int // of parameters, in bytes
	grown                   int
	err                     error
}

func (c *collector) want(name string) {
	if c.wanted[name] {
		return
	}
	if _, ok := c.definitions[name]; !ok {
		c.err = fmt.Errorf("there is no definition %q", name)
		return
	}
	c.wanted[name] = true
	c.queue = append(c.queue, name)
}

const kindsExtension = "x-kubernetes-group-version-kind"

// isOwn says that an entry of a definition's kinds is of the group version.
func (c *collector) isOwn(kind any) bool {
	m, _ := kind.(map[string]any)
	return m["group"] == c.gv.Group && m["version"] == c.gv.Version
}

func (c *collector) ofGroup(definition any) bool {
	m, _ := definition.(map[string]any)
	kinds, _ := m[kindsExtension].([]any)
	return slices.ContainsFunc(kinds, c.isOwn)
}

// encode writes a value with its shared parameters in place, and without the
// claim to be the schema of another group's kind.
func (c *collector) encode(v any) json.RawMessage {
	v = c.walk(v, false, 0)
	if c.err != nil {
		return nil
	}
	text, err := json.Marshal(v)
	c.err = err
	return text
}

func (c *collector) walk(v any, inlined bool, depth int) any {
	if depth > 200 && c.err == nil {
		c.err = errors.New("it is nested too deeply")
	}
	if c.err != nil {
		return nil
	}
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = c.walk(v[i], inlined, depth+1)
		}
	case map[string]any:
		if to, ok := v["$ref"].(string); ok {
			if name, ok := strings.CutPrefix(to, definitionRef); ok {
				c.want(name)
			} else {
				return c.parameter(to, inlined, depth)
			}
		}
		if kinds, ok := v[kindsExtension].([]any); ok {
			if kinds = slices.DeleteFunc(kinds, func(k any) bool { return !c.isOwn(k) }); len(kinds) == 0 {
				delete(v, kindsExtension)
			} else {
				v[kindsExtension] = kinds
			}
		}
		for k := range v {
			v[k] = c.walk(v[k], inlined, depth+1)
		}
	}
	return v
}

// parameter is what a reference to a shared parameter stands for. It must not
// lead to another, and all of them together must not become more than a
// document may be.
func (c *collector) parameter(to string, inlined bool, depth int) any {
	name, ok := strings.CutPrefix(to, "#/parameters/")
	p, there := c.parameters[name]
	if !ok || !there || inlined {
		c.err = fmt.Errorf("it refers to %q", to)
		return nil
	}
	size, known := c.sizes[name]
	if !known {
		p = c.walk(p, true, depth+1)
		text, _ := json.Marshal(p) // it was read as JSON
		size = len(text)
		c.sizes[name] = size
	}
	if c.grown += size; c.grown > mostDocument && c.err == nil {
		c.err = errors.New("its shared parameters are used too often")
	}
	return p
}

var _ openapi.Elsewhere = (*Aggregator)(nil)
