package document

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/common"
)

// documented is an options type with its fields' descriptions.
type documented interface{ SwaggerDoc() map[string]string }

// query turns the fields of an options struct into query parameters, leaving
// out those named and those that are no plain value or list of plain values.
func query(options documented, without ...string) []common.Parameter {
	docs := options.SwaggerDoc()
	t := reflect.TypeOf(options)
	var params []common.Parameter
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || slices.Contains(without, name) {
			continue
		}
		ft := f.Type
		if ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		var dataType string
		switch ft.Kind() {
		case reflect.String:
			dataType = "string"
		case reflect.Bool:
			dataType = "boolean"
		case reflect.Int, reflect.Int32, reflect.Int64:
			dataType = "integer"
		default:
			continue
		}
		params = append(params, inQuery(name, dataType, docs[name]))
	}
	return params
}
