package encryption

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	stored "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	kms "k8s.io/kms/apis/v2"
)

// vault is a key management plugin behind a real socket. Its ciphertext is the
// text under the key's name, which stands for encryption well enough: the
// server must come to it for every seed.
type vault struct {
	kms.UnimplementedKeyManagementServiceServer
	mu       sync.Mutex
	key      string
	health   string
	decrypts int
	lie      *kms.EncryptResponse
}

func (v *vault) Status(context.Context, *kms.StatusRequest) (*kms.StatusResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return &kms.StatusResponse{Version: "v2", Healthz: v.health, KeyId: v.key}, nil
}

func (v *vault) Encrypt(_ context.Context, r *kms.EncryptRequest) (*kms.EncryptResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lie != nil {
		return v.lie, nil
	}
	if r.Uid == "" {
		return nil, errors.New("no uid")
	}
	return &kms.EncryptResponse{Ciphertext: xor(r.Plaintext), KeyId: v.key, Annotations: map[string][]byte{"local.example": []byte(v.key)}}, nil
}

func (v *vault) Decrypt(_ context.Context, r *kms.DecryptRequest) (*kms.DecryptResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.decrypts++
	if string(r.Annotations["local.example"]) != r.KeyId {
		return nil, errors.New("annotations of another key")
	}
	return &kms.DecryptResponse{Plaintext: xor(r.Ciphertext)}, nil
}

func (v *vault) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

func xor(in []byte) []byte {
	out := bytes.Clone(in)
	for i := range out {
		out[i] ^= 0x5a
	}
	return out
}

func serve(t *testing.T, socket string) *vault {
	t.Helper()
	v := &vault{key: "1", health: "ok"}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	kms.RegisterKeyManagementServiceServer(srv, v)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return v
}

func kmsProvider(socket string) string {
	return "  - kms: {apiVersion: v2, name: vault, endpoint: 'unix://" + socket + "', timeout: 200ms}\n"
}

func TestKMS(t *testing.T) {
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "c"), filepath.Join(dir, "s")
	v := serve(t, socket)
	config(t, path, "[secrets]", kmsProvider(socket)+"  - identity: {}\n")
	now := time.Now()
	start := func() (*Encryption, *plugin) {
		t.Helper()
		e, err := Open(t.Context(), Config{Path: path, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.current.Load().close() })
		return e, e.current.Load().plugins[0]
	}
	e, _ := start()
	if c := e.Checks(); len(c) != 1 || c[0].Name != "kms-provider-0" || c[0].Check(t.Context()) != nil {
		t.Errorf("checks %v", c)
	}
	data := write(t, e, secrets, "text")
	rest, ok := bytes.CutPrefix(data, []byte("k8s:enc:kms:v2:vault:"))
	if !ok || bytes.Contains(data, []byte("text")) {
		t.Fatalf("stored as %q", data)
	}
	var o stored.EncryptedObject
	if err := proto.Unmarshal(rest, &o); err != nil || o.KeyID != "1" || o.EncryptedDEKSourceType != stored.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED {
		t.Fatalf("stored %v, %v", &o, err)
	}
	if got, stale := read(t, e, secrets, data); got != "text" || stale || v.decrypts != 0 {
		t.Errorf("got %q, stale %v, after %d decryptions", got, stale, v.decrypts)
	}
	if _, _, err := e.Transformer(secrets).FromStorage(t.Context(), data, at+"b"); err == nil {
		t.Error("read from a place where it was not written")
	}

	// Another server: it asks the plugin, once for all values of a seed.
	e, p := start()
	second := write(t, e, secrets, "more")
	for range 3 {
		if got, stale := read(t, e, secrets, data); got != "text" || stale {
			t.Errorf("got %q, stale %v", got, stale)
		}
	}
	if v.decrypts != 1 {
		t.Errorf("asked %d times", v.decrypts)
	}

	// The plugin's key is rotated: what the old one wrote is stale.
	v.set(func() { v.key = "2" })
	if err := p.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, stale := read(t, e, secrets, second); got != "more" || !stale {
		t.Errorf("after rotation: got %q, stale %v", got, stale)
	}
	if _, stale := read(t, e, secrets, write(t, e, secrets, "new")); stale {
		t.Error("what was just written is stale")
	}

	// The plugin is unwell: the check says so, writing goes on for a while.
	v.set(func() { v.health = "sealed" })
	if err := p.refresh(t.Context()); err == nil || !strings.Contains(e.Checks()[0].Check(t.Context()).Error(), "sealed") {
		t.Errorf("refresh: %v", err)
	}
	now = now.Add(goodFor - time.Second)
	write(t, e, secrets, "x")
	now = now.Add(2 * time.Second)
	if _, err := e.Transformer(secrets).ToStorage(t.Context(), []byte("x"), at); err == nil {
		t.Error("written with a key that was not confirmed for minutes")
	}
	if got, _ := read(t, e, secrets, data); got != "text" {
		t.Errorf("not to be read: %q", got)
	}
	v.set(func() { v.health = "ok" })
	if err := p.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, e, secrets, "x")
}

func TestKMSAbsentAndLying(t *testing.T) {
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "c"), filepath.Join(dir, "s")
	config(t, path, "[secrets]", kmsProvider(socket))
	e := open(t, path, true)
	if _, err := e.Transformer(secrets).ToStorage(t.Context(), []byte("x"), at); err == nil {
		t.Fatal("written without a plugin")
	}
	if e.Checks()[0].Check(t.Context()) == nil {
		t.Error("well without a plugin")
	}
	v := serve(t, socket)
	p := e.current.Load().plugins[0]
	for name, lie := range map[string]*kms.EncryptResponse{
		"no ciphertext":   {KeyId: "1"},
		"long ciphertext": {KeyId: "1", Ciphertext: make([]byte, maxSource+1)},
		"no key":          {Ciphertext: []byte("x")},
		"long key":        {Ciphertext: []byte("x"), KeyId: strings.Repeat("k", maxKeyID+1)},
		"annotation":      {Ciphertext: []byte("x"), KeyId: "1", Annotations: map[string][]byte{"short": nil}},
		"annotations":     {Ciphertext: []byte("x"), KeyId: "1", Annotations: map[string][]byte{"a.b": make([]byte, maxAnnotations)}},
	} {
		v.set(func() { v.lie = lie })
		if err := p.refresh(t.Context()); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
	v.set(func() { v.lie = nil })
	// The loop finds the plugin by itself.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.Run(ctx) }()
	deadline := time.Now().Add(30 * time.Second)
	for e.Checks()[0].Check(ctx) != nil {
		if time.Now().After(deadline) {
			t.Fatal("the plugin was never found")
		}
		time.Sleep(time.Millisecond)
	}
	data := write(t, e, secrets, "text")
	// A configuration whose plugin does not answer is not taken over.
	old := e.current.Load()
	config(t, path, "[secrets]", kmsProvider(filepath.Join(dir, "nobody")))
	s, err := e.load()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.probe(ctx); err == nil {
		t.Error("a plugin that is not there answers")
	}
	s.close()
	if _, err := e.reload(ctx, old); err == nil || e.current.Load() != old {
		t.Errorf("taken over: %v", err)
	}
	if got, _ := read(t, e, secrets, data); got != "text" {
		t.Errorf("got %q", got)
	}
	cancel()
	<-done
}

func FuzzEncryptedObject(f *testing.F) {
	p := &plugin{now: time.Now}
	f.Add([]byte("\x0a\x01x\x12\x011\x1a\x01y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o stored.EncryptedObject
		if proto.Unmarshal(data, &o) == nil && checkHead(&o) == nil && len(o.EncryptedData) > 0 {
			return // would ask the plugin
		}
		if _, _, err := p.TransformFromStorage(t.Context(), data, nil); err == nil {
			t.Error("read")
		}
	})
}
