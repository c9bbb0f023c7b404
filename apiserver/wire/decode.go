package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/internal/envelope"
)

type decoders struct {
	json, yaml, proto runtime.Decoder
}

func newDecoders(s *runtime.Scheme) decoders {
	return decoders{
		json:  serjson.NewSerializerWithOptions(serjson.DefaultMetaFactory, s, s, serjson.SerializerOptions{Strict: true}),
		yaml:  serjson.NewSerializerWithOptions(serjson.DefaultMetaFactory, s, s, serjson.SerializerOptions{Strict: true, Yaml: true}),
		proto: protobuf.NewSerializer(s, s),
	}
}

// Decode reads data into into, which must be a fresh object of the kind want;
// data that names no kind is taken as that. strict is the error that strict
// field validation would give (unknown and duplicate fields), err a 400 with
// upstream's words. The decoded object carries no kind.
func (c *Codec) Decode(m Media, data []byte, into runtime.Object, want schema.GroupVersionKind) (strict, err error) {
	c.Counter.Decoded.Add(1)
	if u, ok := into.(*unstructured.Unstructured); ok {
		return decodeCustom(m, data, u, want)
	}
	if m == JSON {
		// The common case in one pass; whatever is unusual about the data is
		// put into words by the slow path below.
		if strictErrs, err := kjson.UnmarshalStrict(data, into); err == nil {
			got := into.GetObjectKind().GroupVersionKind()
			if got == want {
				into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
				if len(strictErrs) > 0 {
					return runtime.NewStrictDecodingError(strictErrs), nil
				}
				return nil, nil
			}
		}
		into = fresh(into)
	}
	if m == Protobuf {
		// As above, and without a copy of the message.
		version, kind := want.ToAPIVersionAndKind()
		p, ok := into.(interface{ Unmarshal([]byte) error })
		if e, opened := envelope.Open(data); ok && opened && e.Is(version, kind) {
			if p.Unmarshal(e.Raw) == nil {
				return nil, nil
			}
			into = fresh(into)
		}
	}
	return c.decodeSlow(m, data, into, want)
}

// DecodeOptions reads an options object such as DeleteOptions, which may be
// given in v1, in meta.k8s.io/v1 or in the version of the resource.
func (c *Codec) DecodeOptions(m Media, data []byte, into runtime.Object, gv schema.GroupVersion) error {
	dec := c.json
	switch m {
	case YAML:
		dec = c.yaml
	case Protobuf:
		dec = c.proto
	}
	want := metav1.SchemeGroupVersion.WithKind(reflect.TypeOf(into).Elem().Name())
	out, got, err := dec.Decode(data, &want, into)
	if got != nil && got.Kind != want.Kind {
		if isOption(*got) {
			return apierrors.NewBadRequest(unconverted(*got, typeName(want)).Error())
		}
		return apierrors.NewBadRequest(unregistered(*got, optionsScheme).Error())
	}
	if runtime.IsNotRegisteredError(err) {
		if plain, err := unversioned(m, data); err == nil {
			own := gv.WithKind(want.Kind)
			out, got, err = c.json.Decode(plain, &own, into)
			return wrongOptions(out, got, into, err)
		}
	}
	return wrongOptions(out, got, into, err)
}

// wrongOptions is what is wrong with a decoded options object, nil for nothing.
func wrongOptions(out runtime.Object, got *schema.GroupVersionKind, into runtime.Object, err error) error {
	if err != nil && !(runtime.IsStrictDecodingError(err) && out != nil) && !runtime.IsNotRegisteredError(err) {
		return apierrors.NewBadRequest(err.Error())
	}
	if out != into {
		return apierrors.NewBadRequest(unregistered(*got, optionsScheme).Error())
	}
	return nil
}

// unversioned is an options object without its version: as upstream's, options
// are read whatever group they say they are of.
func unversioned(m Media, data []byte) ([]byte, error) {
	if m == Protobuf {
		return nil, errors.New("not text")
	}
	var obj map[string]any
	if err := yaml.Unmarshal(data, &obj); err != nil {
		return nil, err
	}
	delete(obj, "apiVersion")
	delete(obj, "kind")
	return json.Marshal(obj)
}

// fresh empties the object that a failed attempt may have touched.
func fresh(obj runtime.Object) runtime.Object {
	if r, ok := obj.(interface{ Reset() }); ok {
		r.Reset()
		return obj
	}
	reset(obj)
	return obj
}

func (c *Codec) decodeSlow(m Media, data []byte, into runtime.Object, want schema.GroupVersionKind) (strict, err error) {
	dec := c.json
	switch m {
	case YAML:
		dec = c.yaml
	case Protobuf:
		dec = c.proto
	}
	out, got, err := dec.Decode(data, &want, into)
	if err != nil && runtime.IsStrictDecodingError(err) && out != nil {
		strict, err = err, nil
	}
	if runtime.IsNotRegisteredError(err) || got != nil && got.Kind != want.Kind && got.Kind != "" && !known(*got, want) {
		return nil, BadBody(Unregistered(*got, want), want, got, data)
	}
	if err != nil {
		return nil, BadBody(err, want, got, data)
	}
	if got != nil && got.Kind == want.Kind && got.GroupVersion() != want.GroupVersion() && internalName(*got) == internalName(want) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf(
			"the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), want.GroupVersion()))
	}
	if out != into || (got != nil && got.Kind != want.Kind) {
		return nil, BadBody(unconverted(*got, internalName(want)), want, got, data)
	}
	into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return strict, nil
}

// known says that the server of the wanted kind knows the one that it got.
func known(got, want schema.GroupVersionKind) bool {
	return everywhere(got) || schemeOf(got.Group) == schemeOf(want.Group) && got.Group != metav1.GroupName
}

func typeName(gvk schema.GroupVersionKind) string { return gvk.Version + "." + gvk.Kind }

// internalName is upstream's Go name of a kind as its server holds it: its
// package has the group's name.
func internalName(gvk schema.GroupVersionKind) string {
	group, _, _ := strings.Cut(gvk.Group, ".")
	switch group {
	case "", "events":
		group = "core"
	}
	return group + "." + gvk.Kind
}

// BadBody words the refusal of a body that cannot be decoded.
func BadBody(err error, want schema.GroupVersionKind, got *schema.GroupVersionKind, data []byte) error {
	if got != nil && got.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, want.Kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(data)))
}

// summary shows the beginning of a body: as text where it is text.
func summary(data []byte) string {
	const most = 30
	switch {
	case len(data) == 0:
		return "<empty>"
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte{'{'}):
		if len(data) > most {
			return string(data[:most]) + " ..."
		}
		return string(data)
	case len(data) > most:
		return hex.EncodeToString(data[:most]) + " ..."
	}
	return hex.EncodeToString(data)
}

// Unsupported is the 415 for a body in a format that the server does not read.
func Unsupported(accepted []string) error {
	return statusError(415, "UnsupportedMediaType",
		"the body of the request was in an unknown format - accepted media types include: "+strings.Join(accepted, ", "))
}

// Misshown is the 406 for one of the forms of metadata where the answer is a
// list, or is none; is says which, of the Go type.
func Misshown(as, is, goType string) error {
	return statusError(406, "NotAcceptable", fmt.Sprintf("you requested %s, but the requested object %s (%s)", as, is, goType))
}

// Unrouted is the 406 for an Accept header for which Routed is false.
func Unrouted(types []string) error {
	return apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "", schema.GroupResource{}, "",
		"406: Not Acceptable\n\nAvailable representations: "+strings.Join(types, ", "), 0, false)
}

// NotAcceptable is the 406 for an Accept header that names no format that can
// be given.
func NotAcceptable(accepted []string) error {
	return statusError(406, "NotAcceptable", "only the following media types are accepted: "+strings.Join(accepted, ", "))
}
