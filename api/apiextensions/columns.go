package apiextensions

import (
	"encoding/json"
	"fmt"
	"time"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"
)

// Column is an additional printer column, ready to print. It is not safe for
// concurrent use.
type Column struct {
	kind string
	path *jsonpath.JSONPath
}

// ParseColumn reads a column's path.
func ParseColumn(c *extv1.CustomResourceColumnDefinition) (*Column, error) {
	p := jsonpath.New(c.Name).AllowMissingKeys(true)
	if err := p.Parse("{" + c.JSONPath + "}"); err != nil {
		return nil, fmt.Errorf("unrecognized column definition %q", c.JSONPath)
	}
	return &Column{c.Type, p}, nil
}

// Cell is what the column shows of an object; nil shows nothing.
func (c *Column) Cell(obj map[string]any) any {
	found, err := c.path.FindResults(obj)
	if err != nil || len(found) == 0 || len(found[0]) == 0 {
		return nil
	}
	if c.kind == "string" && len(found[0]) > 1 { // as kubectl's jsonpath shows several
		var text string
		for i, v := range found[0] {
			if i > 0 {
				text += " "
			}
			text += fmt.Sprint(v.Interface())
		}
		return text
	}
	return cellOf(c.kind, found[0][0].Interface())
}

func cellOf(kind string, v any) any {
	switch kind {
	case "integer":
		switch n := v.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
	case "number":
		switch n := v.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := v.(bool); ok {
			return b
		}
	case "date":
		s, ok := v.(string)
		if !ok {
			return nil
		}
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return "<invalid>"
		}
		return age(metav1.Time{Time: t})
	case "string":
		switch s := v.(type) {
		case string:
			return s
		case map[string]any, []any:
			b, err := json.Marshal(s)
			if err != nil {
				return nil
			}
			return string(b)
		case nil:
			return nil
		}
		return fmt.Sprint(v)
	}
	return nil
}

func age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}
