package openapi

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
)

// Elsewhere is what other servers publish of what is served through this one.
// It has to be safe for concurrent use.
type Elsewhere interface {
	// Documents, V3 and V2Hash are as in Extra; the map is the caller's.
	Documents() map[string]string
	V3(path string) ([]byte, error)
	V2Hash() string
	// V2 is what the v2 document gets: paths and definitions. It has none
	// whose name is taken.
	V2(taken func(name string) bool) (paths, definitions map[string]json.RawMessage)
}

// Join adds the documents of other servers to those of this one, which go
// first where both have one.
func Join(here Extra, elsewhere Elsewhere) Extra { return &joined{here, elsewhere} }

type joined struct {
	Extra
	elsewhere Elsewhere
}

// Documents lists those of both.
func (j *joined) Documents() map[string]string {
	here, more := j.Extra.Documents(), j.elsewhere.Documents()
	if len(more) == 0 {
		return here
	}
	maps.Copy(more, here)
	return more
}

// V3 makes or fetches a document.
func (j *joined) V3(path string) ([]byte, error) {
	if _, ok := j.Extra.Documents()[path]; ok {
		return j.Extra.V3(path)
	}
	return j.elsewhere.V3(path)
}

// V2Hash is over those of both.
func (j *joined) V2Hash() string {
	here, more := j.Extra.V2Hash(), j.elsewhere.V2Hash()
	if more == "" {
		return here
	}
	return fmt.Sprintf("%X", sha256.Sum256([]byte(here+" "+more)))
}

// V2 makes what both add.
func (j *joined) V2() (paths, definitions []byte, err error) {
	paths, definitions, err = j.Extra.V2()
	if err != nil || j.elsewhere.V2Hash() == "" {
		return paths, definitions, err
	}
	own, err := builtinNames()
	if err != nil {
		return nil, nil, err
	}
	all := [2]map[string]json.RawMessage{}
	for i, text := range [][]byte{paths, definitions} {
		if err := json.Unmarshal(text, &all[i]); err != nil {
			return nil, nil, fmt.Errorf("OpenAPI v2 of custom resources: %w", err)
		}
	}
	more := [2]map[string]json.RawMessage{}
	more[0], more[1] = j.elsewhere.V2(func(name string) bool {
		return own[name] || all[0][name] != nil || all[1][name] != nil
	})
	var out [2][]byte
	for i := range all {
		maps.Copy(all[i], more[i])
		if out[i], err = json.Marshal(all[i]); err != nil {
			return nil, nil, err
		}
	}
	return out[0], out[1], nil
}

// builtinNames are the paths and the definitions of the built-in v2 document.
var builtinNames = sync.OnceValues(func() (map[string]bool, error) {
	text, err := jsonOrBinary("v2", ".json.gz")
	if err != nil {
		return nil, err
	}
	var doc struct{ Paths, Definitions map[string]struct{} }
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("the built-in OpenAPI v2 document: %w", err)
	}
	names := make(map[string]bool, len(doc.Paths)+len(doc.Definitions))
	for _, m := range []map[string]struct{}{doc.Paths, doc.Definitions} {
		for name := range m {
			names[name] = true
		}
	}
	return names, nil
})
