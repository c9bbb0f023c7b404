package envelope_test

import (
	"bytes"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/internal/envelope"
)

func encode(t testing.TB, u *runtime.Unknown) []byte {
	t.Helper()
	b, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(envelope.Magic), b...)
}

func TestOpen(t *testing.T) {
	pod := runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	plain := encode(t, &runtime.Unknown{TypeMeta: pod, Raw: []byte("message")})
	for name, tc := range map[string]struct {
		data []byte
		ok   bool
	}{
		"as it is":        {plain, true},
		"empty message":   {encode(t, &runtime.Unknown{TypeMeta: pod, Raw: []byte{}}), true},
		"no message":      {encode(t, &runtime.Unknown{TypeMeta: pod}), false},
		"compressed":      {encode(t, &runtime.Unknown{TypeMeta: pod, Raw: []byte("m"), ContentEncoding: "gzip"}), false},
		"JSON within":     {encode(t, &runtime.Unknown{TypeMeta: pod, Raw: []byte("{}"), ContentType: runtime.ContentTypeJSON}), false},
		"cut off":         {plain[:len(plain)-5], false},
		"twice a message": {append(bytes.Clone(plain), 0x12, 1, 'x'), false},
		"another field":   {append(bytes.Clone(plain), 0x2a, 1, 'x'), false},
		"a number":        {append(bytes.Clone(plain), 0x08, 1), false},
		"JSON":            {[]byte(`{"kind":"Pod"}`), false},
		"nothing":         {nil, false},
	} {
		m, ok := envelope.Open(tc.data)
		if ok != tc.ok {
			t.Errorf("%s: opened is %v", name, ok)
		}
		if ok && !m.Is("v1", "Pod") {
			t.Errorf("%s: it is %q %q", name, m.APIVersion, m.Kind)
		}
	}
	if m, _ := envelope.Open(plain); m.Is("v1", "Node") || m.Is("v2", "Pod") || string(m.Raw) != "message" {
		t.Errorf("it has %q", m.Raw)
	}
	if n := testing.AllocsPerRun(10, func() {
		if m, ok := envelope.Open(plain); !ok || !m.Is("v1", "Pod") {
			t.Fail()
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// What is opened is what runtime.Unknown finds.
func FuzzOpen(f *testing.F) {
	f.Add(encode(f, &runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: []byte("message")}))
	f.Add([]byte("k8s\x00\x0a\x00\x12\x00\x1a\x00\x22\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok := envelope.Open(data)
		if !ok {
			return
		}
		var u runtime.Unknown
		if err := u.Unmarshal(data[len(envelope.Magic):]); err != nil {
			t.Fatalf("opened, although it is no message: %v", err)
		}
		if !m.Is(u.APIVersion, u.Kind) || !bytes.Equal(m.Raw, u.Raw) || !bytes.HasPrefix(data[m.At:], m.Raw) || u.ContentEncoding != "" || u.ContentType != "" {
			t.Errorf("opened as %+v, is %+v", m, u)
		}
	})
}
