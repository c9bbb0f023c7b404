// Package encryption encrypts objects at rest: an EncryptionConfiguration goes
// in, transformers of stored values come out, which write with the first
// provider of a resource's list and read with any. Values lie in etcd as
// upstream's servers write them ("k8s:enc:...").
package encryption

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/coxswain/cox/apiserver/reloads"
	"github.com/coxswain/cox/internal/filewatch"
	"github.com/coxswain/cox/store"
)

// Config says where the configuration is and how it is followed.
type Config struct {
	// Path is the file of the EncryptionConfiguration
	// (apiserver.config.k8s.io/v1).
	Path string
	// Reload takes over the file's later contents while the server runs, once
	// they are valid and their plugins answer.
	Reload bool
	Log    *slog.Logger
	Now    func() time.Time
	// Reloads counts what becomes of the file's changes; nil is nothing.
	Reloads *reloads.Metrics
}

// Encryption holds the configuration that is in force. It is safe for
// concurrent use.
type Encryption struct {
	cfg     Config
	current atomic.Pointer[set]
}

// Check is an entry of the server's health.
type Check struct {
	Name  string
	Check func(ctx context.Context) error
}

// linger is how long the plugins of a configuration that was replaced stay
// connected, for what is being read with them.
const linger = time.Minute

// Open reads the configuration and asks its plugins once. A plugin that does
// not answer is no error: reads and writes of what needs it fail, and so does
// its check, until Run finds it well.
func Open(ctx context.Context, cfg Config) (*Encryption, error) {
	if st, err := os.Stat(cfg.Path); err == nil && st.Mode().Perm()&0o077 != 0 {
		cfg.Log.Warn("the encryption configuration holds keys and others may read it", "path", cfg.Path, "mode", st.Mode().Perm())
	}
	e := &Encryption{cfg: cfg}
	s, err := e.load()
	if err != nil {
		return nil, err
	}
	if err := s.probe(ctx); err != nil {
		cfg.Log.Warn("a key management plugin is not ready", "error", err)
	}
	e.current.Store(s)
	cfg.Reloads.InForce(s.sum)
	return e, nil
}

func (e *Encryption) load() (*set, error) {
	data, err := os.ReadFile(e.cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("read the encryption configuration: %w", err)
	}
	s, err := parse(data, &e.cfg)
	if err != nil {
		return nil, fmt.Errorf("encryption configuration %s: %w", e.cfg.Path, err)
	}
	return s, nil
}

// Run keeps the state of the key management plugins fresh and, where asked to,
// follows the file, until ctx ends.
func (e *Encryption) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	follow := func(s *set) {
		ctx, cancel := context.WithCancel(ctx)
		s.cancel = cancel
		for _, p := range s.plugins {
			wg.Go(func() { p.run(ctx) })
		}
	}
	follow(e.current.Load())
	if !e.cfg.Reload {
		<-ctx.Done()
		return ctx.Err()
	}
	return filewatch.Run(ctx, func() {
		old := e.current.Load()
		s, err := e.reload(ctx, old)
		if err != nil {
			e.cfg.Reloads.Failed()
			e.cfg.Log.Error("the encryption configuration is not taken over; the one before stays in force", "error", err)
			return
		}
		if s == nil {
			return
		}
		e.current.Store(s)
		follow(s)
		e.cfg.Reloads.Taken(s.sum)
		e.cfg.Log.Info("took over the new encryption configuration", "path", e.cfg.Path)
		wg.Go(func() { old.retire(ctx) })
	}, e.cfg.Path)
}

// reload returns what the file holds now, ready for use; nil if that is in
// force already.
func (e *Encryption) reload(ctx context.Context, old *set) (*set, error) {
	s, err := e.load()
	if err != nil {
		return nil, err
	}
	if s.sum == old.sum {
		s.close()
		return nil, nil
	}
	if err := s.probe(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// Transformer returns the transformer of a resource's values. It follows
// later configurations.
func (e *Encryption) Transformer(gr schema.GroupResource) store.Transformer {
	return transformer{e, gr}
}

type transformer struct {
	e  *Encryption
	gr schema.GroupResource
}

// ToStorage implements store.Transformer.
func (t transformer) ToStorage(ctx context.Context, plain []byte, key string) ([]byte, error) {
	return t.e.current.Load().of(t.gr).TransformToStorage(ctx, plain, value.DefaultContext(key))
}

// FromStorage implements store.Transformer.
func (t transformer) FromStorage(ctx context.Context, stored []byte, key string) ([]byte, bool, error) {
	return t.e.current.Load().of(t.gr).TransformFromStorage(ctx, stored, value.DefaultContext(key))
}

// Checks are the health of the key management plugins, under upstream's names:
// one for each, or one for all when the configuration may change.
func (e *Encryption) Checks() []Check {
	if e.cfg.Reload {
		return []Check{{"kms-providers", func(context.Context) error {
			var errs []error
			for _, p := range e.current.Load().plugins {
				errs = append(errs, p.healthy())
			}
			return errors.Join(errs...)
		}}}
	}
	var out []Check
	for i, p := range e.current.Load().plugins {
		out = append(out, Check{fmt.Sprintf("kms-provider-%d", i), func(context.Context) error { return p.healthy() }})
	}
	return out
}

// set is one configuration.
type set struct {
	sum     [sha256.Size]byte
	rules   []rule
	plugins []*plugin
	found   sync.Map // schema.GroupResource: value.Transformer
	cancel  context.CancelFunc
}

// rule is one list of resources with its providers.
type rule struct {
	resources []string
	providers value.Transformer
}

// of returns the transformer of a resource: that of the first rule that names
// it.
func (s *set) of(gr schema.GroupResource) value.Transformer {
	if t, ok := s.found.Load(gr); ok {
		return t.(value.Transformer)
	}
	t := plain()
	for _, r := range s.rules {
		if r.matches(gr) {
			t = r.providers
			break
		}
	}
	s.found.Store(gr, t)
	return t
}

func (r *rule) matches(gr schema.GroupResource) bool {
	for _, name := range r.resources {
		switch name {
		case "*.*", "*." + gr.Group, gr.String():
			return true
		}
	}
	return false
}

// probe asks every plugin for its state, all at once.
func (s *set) probe(ctx context.Context) error {
	errs := make([]error, len(s.plugins))
	var wg sync.WaitGroup
	for i, p := range s.plugins {
		wg.Go(func() { errs[i] = p.refresh(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// retire closes the set once nothing can be read with it any more.
func (s *set) retire(ctx context.Context) {
	s.cancel()
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	s.close()
}

func (s *set) close() {
	for _, p := range s.plugins {
		_ = p.conn.Close()
	}
}
