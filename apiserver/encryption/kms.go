package encryption

import (
	"context"
	"crypto/aes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	stored "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	kms "k8s.io/kms/apis/v2"
)

// Bounds of what a plugin may say (KEP-3299).
const (
	maxKeyID       = 1 << 10
	maxSource      = 1 << 10
	maxAnnotations = 32 << 10
)

// How often a plugin is asked for its state, and how long a state is good for
// writing after the plugin last confirmed it (KEP-3299: a key that was rotated
// away must not be written with for long).
const (
	refreshEvery = time.Minute
	retryFirst   = time.Second
	retryMost    = 10 * time.Second
	goodFor      = 3 * time.Minute
)

// maxSeeds bounds the data keys that are remembered decrypted.
const maxSeeds = 1024

// plugin is a key management plugin of version 2 behind a Unix socket. It
// encrypts a random seed once per key of its own; the values are encrypted
// with keys derived from the seed, one per value, and carry the encrypted
// seed. It is safe for concurrent use.
type plugin struct {
	name    string
	timeout time.Duration
	conn    *grpc.ClientConn
	client  kms.KeyManagementServiceClient
	log     *slog.Logger
	now     func() time.Time

	state   atomic.Pointer[state]
	failed  atomic.Pointer[error] // of the last refresh; nil before the first
	opening singleflight.Group

	mu    sync.Mutex
	seeds map[[sha256.Size]byte]value.Transformer
}

// state is what values are written with. It is read only.
type state struct {
	object  *stored.EncryptedObject // without data
	cipher  value.Transformer
	until   time.Time
	current string // the key that the plugin named when the state was made
}

func newPlugin(c *apiserver.KMSConfiguration, cfg *Config) (*plugin, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "unix" {
		return nil, fmt.Errorf("endpoint %q: want unix:///path/of/socket", c.Endpoint)
	}
	path := u.Path
	if strings.HasPrefix(path, "/@") { // Linux's abstract sockets
		path = path[1:]
	}
	conn, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the socket's mode guards it
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", c.Endpoint, err)
	}
	p := &plugin{
		name: c.Name, timeout: c.Timeout.Duration, conn: conn, client: kms.NewKeyManagementServiceClient(conn),
		log: cfg.Log.With("kms", c.Name), now: cfg.Now, seeds: map[[sha256.Size]byte]value.Transformer{},
	}
	notYet := errors.New("was not asked yet")
	p.failed.Store(&notYet)
	return p, nil
}

// healthy is nil if the plugin was well when last asked.
func (p *plugin) healthy() error {
	if err := *p.failed.Load(); err != nil {
		return fmt.Errorf("kms provider %s: %w", p.name, err)
	}
	return nil
}

// run refreshes the state until ctx ends.
func (p *plugin) run(ctx context.Context) {
	pause, retry := refreshEvery, retryFirst
	if p.healthy() != nil {
		pause = retryFirst
	}
	for {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		was := p.healthy()
		err := p.refresh(ctx)
		switch {
		case err == nil:
			pause, retry = refreshEvery, retryFirst
			if was != nil {
				p.log.Info("the key management plugin is well")
			}
		case ctx.Err() != nil:
			return
		default:
			if was == nil {
				p.log.Error("the key management plugin fails", "error", err)
			}
			pause, retry = retry, min(2*retry, retryMost)
		}
	}
}

// refresh asks the plugin for its state and prepares for writing with the key
// that it names.
func (p *plugin) refresh(ctx context.Context) error {
	err := p.renew(ctx)
	p.failed.Store(&err)
	return err
}

func (p *plugin) renew(ctx context.Context) error {
	asked := p.now()
	call, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	st, err := p.client.Status(call, &kms.StatusRequest{})
	if err != nil {
		return fmt.Errorf("ask for the status: %w", err)
	}
	switch {
	case st.Version != "v2" && st.Version != "v2beta1":
		return fmt.Errorf("the plugin speaks version %q, want v2", st.Version)
	case st.Healthz != "ok":
		return fmt.Errorf("the plugin says that it is %q, want ok", st.Healthz)
	}
	if err := checkKeyID(st.KeyId); err != nil {
		return err
	}
	until := asked.Add(goodFor)
	if old := p.state.Load(); old != nil && old.current == st.KeyId {
		same := *old
		same.until = until
		p.state.Store(&same)
		return nil
	}
	s, err := p.newState(ctx)
	if err != nil {
		return err
	}
	s.current, s.until = st.KeyId, until
	p.state.Store(s)
	return nil
}

// newState makes a seed and has it encrypted.
func (p *plugin) newState(ctx context.Context) (*state, error) {
	seed, err := aestransformer.GenerateKey(aestransformer.MinSeedSizeExtendedNonceGCM)
	if err != nil {
		return nil, fmt.Errorf("make a seed: %w", err)
	}
	cipher, err := aestransformer.NewHKDFExtendedNonceGCMTransformer(seed)
	if err != nil {
		return nil, fmt.Errorf("use a seed: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	res, err := p.client.Encrypt(ctx, &kms.EncryptRequest{Plaintext: seed, Uid: string(uuid.NewUUID())})
	if err != nil {
		return nil, fmt.Errorf("encrypt a seed: %w", err)
	}
	o := &stored.EncryptedObject{
		KeyID: res.KeyId, EncryptedDEKSource: res.Ciphertext, Annotations: res.Annotations,
		EncryptedDEKSourceType: stored.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED,
	}
	if err := checkHead(o); err != nil {
		return nil, fmt.Errorf("the plugin's answer to encrypt: %w", err)
	}
	p.remember(sourceSum(o), cipher)
	return &state{object: o, cipher: cipher}, nil
}

// TransformToStorage implements value.Transformer.
func (p *plugin) TransformToStorage(ctx context.Context, data []byte, at value.Context) ([]byte, error) {
	s := p.state.Load()
	if s == nil {
		return nil, fmt.Errorf("nothing can be encrypted yet: %w", p.healthy())
	}
	if p.now().After(s.until) {
		return nil, fmt.Errorf("the key is not to be written with: the plugin has not confirmed it since %s: %w",
			s.until.Add(-goodFor).UTC().Format(time.RFC3339), p.healthy())
	}
	sealed, err := s.cipher.TransformToStorage(ctx, data, at)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&stored.EncryptedObject{
		EncryptedData: sealed, KeyID: s.object.KeyID, EncryptedDEKSource: s.object.EncryptedDEKSource,
		Annotations: s.object.Annotations, EncryptedDEKSourceType: s.object.EncryptedDEKSourceType,
	})
}

// TransformFromStorage implements value.Transformer. A value is stale that was
// not written with the plugin's present key.
func (p *plugin) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	o := &stored.EncryptedObject{}
	if err := proto.Unmarshal(data, o); err != nil {
		return nil, false, fmt.Errorf("not an encrypted object: %w", err)
	}
	if len(o.EncryptedData) == 0 {
		return nil, false, errors.New("encrypted object without data")
	}
	if err := checkHead(o); err != nil {
		return nil, false, fmt.Errorf("encrypted object: %w", err)
	}
	cipher, err := p.open(ctx, o)
	if err != nil {
		return nil, false, err
	}
	out, stale, err := cipher.TransformFromStorage(ctx, o.EncryptedData, at)
	if err != nil {
		return nil, false, err
	}
	s := p.state.Load()
	stale = stale || s != nil && (o.KeyID != s.object.KeyID || o.EncryptedDEKSourceType != s.object.EncryptedDEKSourceType)
	return out, stale, nil
}

// open returns the cipher of a stored value; the plugin is asked once for each
// seed.
func (p *plugin) open(ctx context.Context, o *stored.EncryptedObject) (value.Transformer, error) {
	sum := sourceSum(o)
	p.mu.Lock()
	t, ok := p.seeds[sum]
	p.mu.Unlock()
	if ok {
		return t, nil
	}
	// Who waits with the first one must not fail because that one gave up.
	shared := context.WithoutCancel(ctx)
	v, err, _ := p.opening.Do(string(sum[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(shared, p.timeout)
		defer cancel()
		res, err := p.client.Decrypt(ctx, &kms.DecryptRequest{
			Ciphertext: o.EncryptedDEKSource, Uid: string(uuid.NewUUID()), KeyId: o.KeyID, Annotations: o.Annotations,
		})
		if err != nil {
			return nil, fmt.Errorf("kms provider %s: decrypt a data key: %w", p.name, err)
		}
		t, err := cipherOf(o.EncryptedDEKSourceType, res.Plaintext)
		if err != nil {
			return nil, fmt.Errorf("kms provider %s: use a data key: %w", p.name, err)
		}
		p.remember(sum, t)
		return t, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(value.Transformer), nil
}

func cipherOf(kind stored.EncryptedDEKSourceType, key []byte) (value.Transformer, error) {
	if kind == stored.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED {
		return aestransformer.NewHKDFExtendedNonceGCMTransformer(key)
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return aestransformer.NewGCMTransformer(b)
}

func (p *plugin) remember(sum [sha256.Size]byte, t value.Transformer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.seeds[sum]; !ok && len(p.seeds) >= maxSeeds {
		for old := range p.seeds {
			delete(p.seeds, old)
			break
		}
	}
	p.seeds[sum] = t
}

// sourceSum tells the encrypted data keys apart, with all that the plugin is
// given to decrypt them.
func sourceSum(o *stored.EncryptedObject) (sum [sha256.Size]byte) {
	h := sha256.New()
	add := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	add([]byte{byte(o.EncryptedDEKSourceType)})
	add([]byte(o.KeyID))
	add(o.EncryptedDEKSource)
	for _, k := range slices.Sorted(maps.Keys(o.Annotations)) {
		add([]byte(k))
		add(o.Annotations[k])
	}
	h.Sum(sum[:0])
	return sum
}

func checkKeyID(id string) error {
	switch {
	case id == "":
		return errors.New("the key's ID is empty")
	case len(id) > maxKeyID:
		return fmt.Errorf("the key's ID has %d bytes, at most %d are allowed", len(id), maxKeyID)
	}
	return nil
}

// checkHead checks what goes before the data.
func checkHead(o *stored.EncryptedObject) error {
	if err := checkKeyID(o.KeyID); err != nil {
		return err
	}
	if n := len(o.EncryptedDEKSource); n == 0 || n > maxSource {
		return fmt.Errorf("the encrypted data key has %d bytes, want 1 to %d", n, maxSource)
	}
	if _, ok := stored.EncryptedDEKSourceType_name[int32(o.EncryptedDEKSourceType)]; !ok {
		return fmt.Errorf("unknown type of data key %d", o.EncryptedDEKSourceType)
	}
	size := 0
	for k, v := range o.Annotations {
		if msgs := validation.IsDNS1123Subdomain(k); len(msgs) > 0 || !strings.Contains(k, ".") {
			return fmt.Errorf("annotation %q is not a fully qualified domain name", k)
		}
		size += len(k) + len(v)
	}
	if size > maxAnnotations {
		return fmt.Errorf("the annotations have %d bytes, at most %d are allowed", size, maxAnnotations)
	}
	return nil
}
