package openapi

import (
	"fmt"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
)

// ParseV2 reads a v2 document, which may be a stranger's: what the library
// panics at is one that cannot be read. text is only read. It is safe for
// concurrent use.
func ParseV2(text []byte) (*openapi_v2.Document, error) { return parse(openapi_v2.ParseDocument, text) }

// ParseV3 is ParseV2 for a v3 document.
func ParseV3(text []byte) (*openapi_v3.Document, error) { return parse(openapi_v3.ParseDocument, text) }

func parse[D any](read func([]byte) (*D, error), text []byte) (doc *D, err error) {
	defer func() {
		if p := recover(); p != nil {
			doc, err = nil, fmt.Errorf("the document cannot be read: %v", p)
		}
	}()
	return read(text)
}
