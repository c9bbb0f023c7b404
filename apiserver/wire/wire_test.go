package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestNegotiate(t *testing.T) {
	noTable := func(a Accept) bool { return a.As == "" }
	all := func(Accept) bool { return true }
	for _, tt := range []struct {
		header string
		allow  func(Accept) bool
		want   Accept
		ok     bool
	}{
		{"", all, Accept{}, true},
		{"*/*", all, Accept{}, true},
		{"application/yaml", all, Accept{Media: YAML}, true},
		{"application/vnd.kubernetes.protobuf,application/json", all, Accept{Media: Protobuf}, true},
		{"application/json;as=Table;v=v1;g=meta.k8s.io,application/json", all, Accept{As: "Table", Version: "v1", Group: "meta.k8s.io"}, true},
		{"application/json;as=Table;v=v1;g=meta.k8s.io,application/json", noTable, Accept{}, true},
		{"application/json;as=Table;v=v1;g=meta.k8s.io", noTable, Accept{}, false},
		{"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", all, Accept{}, true},
		{"application/json;q=0.5,application/yaml;q=0.9", all, Accept{Media: YAML}, true},
		{"application/json;q=0", all, Accept{}, true},
		{"application/json;q=0,application/yaml;q=0.1", all, Accept{Media: YAML}, true},
		{"APPLICATION/JSON", all, Accept{}, false},
		{"application/json;stream=foo", all, Accept{}, false},
		{"application/json;stream=\"watch\"", all, Accept{}, false},
		{"application/yaml;stream=watch", all, Accept{}, false},
		{"application/json;v=v1", all, Accept{}, false},
		{"application/json;g=meta.k8s.io,application/yaml", all, Accept{Media: YAML}, true},
		{"image/png", all, Accept{}, false},
		{"application/json; pretty=1", all, Accept{Pretty: true}, true},
		{"application/vnd.kubernetes.protobuf;stream=watch", all, Accept{Media: Protobuf, Stream: "watch"}, true},
	} {
		got, ok := Negotiate(tt.header, tt.allow)
		if ok != tt.ok || got != tt.want {
			t.Errorf("%q: %+v %v, want %+v %v", tt.header, got, ok, tt.want, tt.ok)
		}
	}
}

func TestRouted(t *testing.T) {
	for header, want := range map[string]bool{
		"": true, "*/*": true, "application/json": true, "text/html, */*;q=0.1": true, "application/json ;as=Foo": true,
		"application/*": false, "APPLICATION/JSON": false, "bogus": false, "application/yaml": false, "text/*": false,
	} {
		if got := Routed(header, TypeJSON, TypeProtobuf); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add("application/json;as=Table;q=0.5, */*;q=1")
	f.Fuzz(func(t *testing.T, header string) {
		a, ok := Negotiate(header, func(a Accept) bool { return a.As == "" })
		if ok && a.As != "" {
			t.Errorf("%q gives %+v, which was not allowed", header, a)
		}
	})
}

// FuzzFrame checks that every frame is one that the library reads back.
func FuzzFrame(f *testing.F) {
	f.Add("name", 10)
	f.Add("x", 200000)
	f.Fuzz(func(t *testing.T, key string, size int) {
		if size < 0 || size > 1<<20 {
			return
		}
		cm := &corev1.ConfigMap{Data: map[string]string{key: strings.Repeat("v", size)}}
		h := NewHead(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
		body, err := New(scheme.Scheme).Body(Protobuf, cm)
		if err != nil {
			return // not UTF-8
		}
		frame := h.AppendFrame(nil, Protobuf, "MODIFIED", Body{Bytes: body[:len(body)/2], Tail: body[len(body)/2:]})
		if n := binary.BigEndian.Uint32(frame); int(n) != len(frame)-4 {
			t.Fatalf("length %d of %d bytes", n, len(frame)-4)
		}
		var ev metav1.WatchEvent
		if err := ev.Unmarshal(frame[4:]); err != nil || ev.Type != "MODIFIED" {
			t.Fatal(err, ev.Type)
		}
		pieces, err := h.Message(Protobuf, Body{Bytes: body})
		if err != nil || !bytes.Equal(join(pieces), ev.Object.Raw) {
			t.Error("the frame's object is not the message")
		}
	})
}

func TestStatus(t *testing.T) {
	st := Status(errors.New("oh"))
	if st.Code != 500 || st.Message != "oh" || st.Status != metav1.StatusFailure {
		t.Errorf("%+v", st)
	}
	if st := Status(apierrors.NewBadRequest("no")); st.Code != 400 || st.Reason != metav1.StatusReasonBadRequest {
		t.Errorf("%+v", st)
	}
}

func TestEmptyBodies(t *testing.T) {
	h := NewHead(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	if got := string(h.JSON([]byte("{}"))); got != `{"kind":"ConfigMap","apiVersion":"v1"}` {
		t.Error(got)
	}
	pieces, err := h.List(nil, JSON, &metav1.ListMeta{ResourceVersion: "1"}, nil, nil)
	if err != nil || !json.Valid(join(pieces)) || !strings.Contains(string(join(pieces)), `"items":[]`) {
		t.Error(err, string(join(pieces)))
	}
}
