// Package table shows objects as the rows that `kubectl get` prints: hub
// objects and a kind's columns go in, a meta.k8s.io/v1 Table as JSON comes
// out.
package table

import (
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/wire"
)

// Convertor makes the rows of one kind. It is safe for concurrent use.
type Convertor struct {
	columns json.RawMessage
	cells   func(runtime.Object) []any
}

// New returns a convertor for a kind's columns; nil cells show name and age.
func New(columns []metav1.TableColumnDefinition, cells func(runtime.Object) []any) *Convertor {
	if cells == nil {
		columns, cells = plainColumns, plainCells
	}
	b, err := json.Marshal(columns)
	if err != nil { // column definitions are plain strings and numbers
		panic(fmt.Sprintf("encode columns: %v", err))
	}
	return &Convertor{columns: b, cells: cells}
}

var plainColumns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
	{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
}

func plainCells(obj runtime.Object) []any {
	m, ok := obj.(metav1.Object)
	if !ok {
		return []any{"", nil}
	}
	return []any{m.GetName(), m.GetCreationTimestamp().UTC().Format(time.RFC3339)}
}

// Row is one object to show; Object is its complete JSON, or nil to leave it
// out.
type Row struct {
	Hub    runtime.Object
	Object json.RawMessage
}

// Head is the kind of every table; v is v1 or v1beta1.
func Head(v string) *wire.Head {
	return wire.NewHead(schema.GroupVersion{Group: metav1.GroupName, Version: v}.WithKind("Table"))
}

type row struct {
	Cells  []any           `json:"cells"`
	Object json.RawMessage `json:"object"`
}

// Body encodes a table without its kind and apiVersion. Columns are left out
// if bare is set, as in every event of a watch but the first.
func (c *Convertor) Body(meta metav1.ListMeta, rows []Row, bare bool) ([]byte, error) {
	t := struct {
		metav1.ListMeta `json:"metadata"`
		Columns         json.RawMessage `json:"columnDefinitions"`
		Rows            []row           `json:"rows"`
	}{meta, c.columns, make([]row, len(rows))}
	if bare {
		t.Columns = nil
	}
	for i, r := range rows {
		t.Rows[i] = row{c.cells(r.Hub), r.Object}
	}
	return json.Marshal(t)
}
