// Package patch applies the client-side forms of a patch: a document and a
// patch go in, the changed document comes out. Server-side apply needs the
// owners of fields and is done by the API server itself. Errors are API
// statuses in upstream's words.
package patch

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// MaxOperations is how many operations a JSON patch may have.
const MaxOperations = 10000

// JSON applies an RFC 6902 patch to a JSON document. strict holds what strict
// field validation refuses in the patch itself.
func JSON(doc, patch []byte) (out []byte, strict []error, err error) {
	if strict, err = checkOperations(patch); err != nil {
		return nil, nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
	}
	ops, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if len(ops) > MaxOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"The allowed maximum operations in a JSON patch is %d, got %d", MaxOperations, len(ops)))
	}
	if out, err = Operate(ops, doc); err != nil {
		return nil, nil, unprocessable(err)
	}
	return out, strict, nil
}

// maxCopied bounds what the copy operations of a JSON patch may add to a
// document, in bytes: each could double it, and a patch of 2 KB take all memory.
const maxCopied = 3 << 20

// bound tells the library, which keeps one bound for the whole process.
var bound = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxCopied })

// Operate carries out the operations on a JSON document, which stays as it is. It
// is the way for every RFC 6902 patch, whoever made it. Errors are the library's,
// which panics at some operations that lack their value.
func Operate(ops jsonpatch.Patch, doc []byte) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("the patch cannot be applied: %v", p)
		}
	}()
	bound()
	return ops.Apply(doc)
}

// checkOperations holds the form of a JSON patch. Clients know upstream's words
// for what does not fit, which name a type of its own. Fields that no operation
// has, or that are there twice, are only reported in strict.
func checkOperations(patch []byte) (strict []error, err error) {
	type jsonPatchOp struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		From  string `json:"from"`
		Value any    `json:"value"`
	}
	var ops []jsonPatchOp
	found, err := kjson.UnmarshalStrict(patch, &ops)
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "patch.jsonPatchOp", "handlers.jsonPatchOp"))
	}
	for _, e := range found {
		strict = append(strict, fmt.Errorf("json patch %w", e))
	}
	return strict, nil
}

// decode reads a patch that is a JSON object. Duplicate fields are reported
// in dups.
func decode(patch []byte) (m map[string]any, dups []error, err error) {
	dups, err = kjson.UnmarshalStrict(patch, &m, kjson.DisallowDuplicateFields)
	return m, dups, err
}

// Merge applies an RFC 7386 patch to a document, which it changes and
// returns. strict holds what strict field validation refuses.
func Merge(doc map[string]any, patch []byte) (out map[string]any, strict []error, err error) {
	p, strict, err := decode(patch)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if p == nil { // null
		return nil, nil, apierrors.NewBadRequest("Invalid JSON Patch")
	}
	return merge(doc, p), strict, nil
}

func merge(doc, patch map[string]any) map[string]any {
	if doc == nil {
		doc = map[string]any{}
	}
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(doc, k)
		case map[string]any:
			sub, _ := doc[k].(map[string]any)
			doc[k] = merge(sub, v)
		default:
			doc[k] = v
		}
	}
	return doc
}

// MergeJSON applies an RFC 7386 patch to a JSON document, of which it leaves
// alone what the patch does not reach: its numbers, and the order of its fields.
func MergeJSON(doc, patch []byte) (out []byte, strict []error, err error) {
	p, strict, err := decode(patch)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if p == nil { // null
		return nil, nil, apierrors.NewBadRequest("Invalid JSON Patch")
	}
	if out, err = jsonpatch.MergePatch(doc, patch); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return out, strict, nil
}

// Strategic applies a strategic merge patch to a document, which it may
// change. dataStruct is an empty object of the document's Go type, whose tags
// say how lists are merged. said is the patch as it was decoded, for errors.
func Strategic(doc map[string]any, patch []byte, dataStruct any) (out, said map[string]any, strict []error, err error) {
	said, strict, err = decode(patch)
	if err != nil {
		return nil, nil, nil, apierrors.NewBadRequest(err.Error())
	}
	out, err = merged(doc, said, dataStruct)
	switch {
	case err == nil:
		return out, said, strict, nil
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return nil, nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return nil, nil, nil, err // which upstream takes for a failure of its own
}

// merged has the library merge. It panics where a key of a list's elements is a
// list or an object, which only a patch can say.
func merged(doc, patch map[string]any, dataStruct any) (out map[string]any, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, apierrors.NewBadRequest(fmt.Sprintf("the patch cannot be merged: %v", p))
		}
	}()
	return strategicpatch.StrategicMergeMapPatch(doc, patch, dataStruct)
}

func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}

// plain reads a configuration that is a JSON object and says so. Anything else
// that begins like one (a flow mapping, fields twice) is for the YAML decoder,
// which takes ten times as long.
func plain(patch []byte, into *map[string]any) bool {
	dups, err := kjson.UnmarshalStrict(patch, into, kjson.DisallowDuplicateFields)
	return err == nil && len(dups) == 0
}

// Applied reads the configuration of a server-side apply, which is YAML or
// JSON. strict is what strict field validation refuses.
func Applied(patch []byte) (obj *unstructured.Unstructured, strict, err error) {
	obj = &unstructured.Unstructured{}
	if !bytes.HasPrefix(bytes.TrimLeft(patch, " \t\r\n"), []byte{'{'}) || !plain(patch, &obj.Object) {
		js, err := yaml.YAMLToJSON(patch)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: error converting YAML to JSON: %v", err))
		}
		obj.Object = nil
		if err := kjson.UnmarshalCaseSensitivePreserveInts(js, &obj.Object); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: error unmarshaling JSON: while decoding JSON: %v", err))
		}
		_, strict = yaml.YAMLToJSONStrict(patch)
	}
	if obj.Object == nil {
		obj.Object = map[string]any{}
	}
	return obj, strict, nil
}
