package wire

import (
	"encoding/json"
	"fmt"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/internal/plainjson"
)

// ClearKind takes the kind off a typed object, which the table knows without.
// A custom object keeps its own: nothing else tells its version.
func ClearKind(obj runtime.Object) {
	if _, custom := obj.(*unstructured.Unstructured); !custom {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
}

// customBody encodes a custom object without kind and apiVersion. It is only
// read.
func customBody(u *unstructured.Unstructured) ([]byte, error) {
	return plainjson.Without(make([]byte, 0, 2048), u.Object, "kind", "apiVersion")
}

// shallowCustom copies the maps in which kind and metadata are.
func shallowCustom(u *unstructured.Unstructured) *unstructured.Unstructured {
	out := maps.Clone(u.Object)
	if out == nil {
		out = map[string]any{}
	}
	if m, ok := out["metadata"].(map[string]any); ok {
		out["metadata"] = maps.Clone(m)
	}
	return &unstructured.Unstructured{Object: out}
}

// decodeCustom reads a custom object of the wanted version. strict has the
// duplicate fields; unknown ones are found by the schema.
func decodeCustom(m Media, data []byte, into *unstructured.Unstructured, want schema.GroupVersionKind) (strict, err error) {
	js := data
	var dups []error
	switch m {
	case Protobuf:
		return nil, Unsupported([]string{TypeJSON, TypeYAML})
	case YAML:
		if js, err = yaml.YAMLToJSONStrict(data); err != nil {
			dups = append(dups, err)
			if js, err = yaml.YAMLToJSON(data); err != nil {
				return nil, BadBody(err, want, nil, data)
			}
		}
	}
	var obj map[string]any
	more, err := kjson.UnmarshalStrict(js, &obj, kjson.DisallowDuplicateFields)
	if err != nil {
		return nil, BadBody(err, want, nil, data)
	}
	into.Object = obj
	got := into.GroupVersionKind()
	if got.Kind == "" {
		return nil, BadBody(runtime.NewMissingKindErr(string(js)), want, nil, data)
	}
	if gv := got.GroupVersion(); gv != want.GroupVersion() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf(
			"the API version in the data (%s) does not match the expected API version (%s)", gv, want.GroupVersion()))
	}
	if dups = append(dups, more...); len(dups) > 0 {
		strict = runtime.NewStrictDecodingError(dups)
	}
	return strict, nil
}

// PlainOptions renames an options object that is given in the version of a
// custom resource, for which DecodeOptions knows no type, to v1. What is not in
// that version, or not JSON or YAML, is returned as it is.
func PlainOptions(m Media, data []byte, gv schema.GroupVersion) (Media, []byte, error) {
	if m == Protobuf {
		return m, data, nil
	}
	var obj map[string]any
	if err := yaml.Unmarshal(data, &obj); err != nil || obj["apiVersion"] != gv.String() {
		return m, data, nil // DecodeOptions finds the words for what is wrong
	}
	obj["apiVersion"] = "v1"
	out, err := json.Marshal(obj)
	return JSON, out, err
}
