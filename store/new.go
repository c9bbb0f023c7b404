package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
)

// Config says what a store is made of.
type Config struct {
	// Backend is the etcd; the store does not close it.
	Backend Backend
	// Table's stored kinds are cached from the start; others (custom
	// resources) from their first use. It may be nil.
	Table *api.Table
	// Root is what every key begins with; "/registry" when empty.
	Root string
	// Transformer returns a resource's value transformer; nil (the function
	// or its result) stores values as they are.
	Transformer func(schema.GroupResource) Transformer
	// Log gets what goes wrong in the background; slog.Default() when nil.
	Log *slog.Logger

	// EncodingBytes bounds the encodings that all entries keep together;
	// 16 MiB when 0.
	EncodingBytes int64
	// History bounds what each kind keeps for watches to resume from.
	History History
	// CompactEvery is the time between compactions of etcd's history; 5
	// minutes when 0, never when negative.
	CompactEvery time.Duration
	// BookmarkEvery is the time between bookmarks; 1 minute when 0.
	BookmarkEvery time.Duration
	// Durations, where set, measure what is asked of etcd.
	Durations *Durations
	// Mutated, where set, is told about every shared object that someone
	// changed. It costs a copy of each object: for tests.
	Mutated func(text string)
}

// History bounds a kind's ring of events. Zero fields mean the defaults.
type History struct {
	Age   time.Duration // what is older may go; 3 minutes
	Bytes int64         // of stored values, about; 16 MiB
	Least int           // events kept whatever their age or size; 100
}

// Store gives access to the objects of all kinds. It is safe for concurrent
// use.
type Store struct {
	cfg       Config
	log       *slog.Logger
	root      string // with a slash at its end
	encodings *Encodings
	seed      maphash.Seed
	leases    *leases
	feed      *feed
	marks     *bookmarker
	mutations *mutations
	compacted atomic.Int64 // see compactor

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	kinds map[*api.Kind]*cached
}

// New starts caching the table's kinds in the background; what is asked
// before the cache is ready comes from etcd. Close ends it.
func New(cfg Config) (*Store, error) {
	if cfg.Backend == nil {
		return nil, errors.New("store: no backend given")
	}
	if cfg.Root == "" {
		cfg.Root = "/registry"
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	orDefault(&cfg.EncodingBytes, 16<<20)
	orDefault(&cfg.CompactEvery, 5*time.Minute)
	orDefault(&cfg.BookmarkEvery, time.Minute)
	orDefault(&cfg.History.Age, 3*time.Minute)
	orDefault(&cfg.History.Bytes, 16<<20)
	orDefault(&cfg.History.Least, 100)
	s := &Store{
		cfg: cfg, log: cfg.Log, root: strings.TrimSuffix(cfg.Root, "/") + "/",
		encodings: newEncodings(cfg.EncodingBytes), seed: maphash.MakeSeed(),
		leases: newLeases(cfg.Backend), kinds: map[*api.Kind]*cached{},
	}
	if cfg.Mutated != nil {
		s.mutations = &mutations{report: cfg.Mutated}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.marks = newBookmarker(cfg.BookmarkEvery)
	s.feed = newFeed(s)
	if cfg.Table != nil {
		prefixes := map[string]*api.Kind{}
		for _, k := range cfg.Table.Kinds {
			if k.Prefix == "" {
				continue
			}
			if other := prefixes[k.Prefix]; other != nil {
				return nil, fmt.Errorf("store: %v and %v share the prefix %q", other.Hub, k.Hub, k.Prefix)
			}
			prefixes[k.Prefix] = k
			s.Kind(k)
		}
	}
	s.wg.Go(func() { s.feed.run(s.ctx) })
	if cfg.CompactEvery > 0 {
		s.wg.Go(func() { s.compact(s.ctx, cfg.CompactEvery) })
	}
	return s, nil
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Kind returns access to one kind through the watch cache. The same row gives
// the same value.
func (s *Store) Kind(k *api.Kind) Interface {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.kinds[k]; ok {
		return c
	}
	d := newDirect(s, k)
	c := &cached{direct: d, cache: newCache(s, d)}
	d.cache = c.cache
	s.kinds[k] = c
	s.feed.add(c.cache)
	return c
}

// Direct returns access to one kind that reads from etcd alone.
func (s *Store) Direct(k *api.Kind) Interface { return newDirect(s, k) }

// Forget ends the watches of a kind (a custom resource that is no more) and
// drops its cache. Its objects stay in etcd.
func (s *Store) Forget(k *api.Kind) {
	s.mu.Lock()
	c, ok := s.kinds[k]
	delete(s.kinds, k)
	s.mu.Unlock()
	if ok {
		s.feed.remove(c.cache)
		c.cache.close()
	}
}

// Revision returns a revision at least as great as that of every write
// acknowledged before the call.
func (s *Store) Revision(ctx context.Context) (int64, error) { return s.cfg.Backend.Revision(ctx) }

// Ready waits until every kind known is served from the cache.
func (s *Store) Ready(ctx context.Context) error {
	s.mu.Lock()
	kinds := make([]*cached, 0, len(s.kinds))
	for _, c := range s.kinds {
		kinds = append(kinds, c)
	}
	s.mu.Unlock()
	for _, c := range kinds {
		if err := c.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all watches and the store's background work. The backend stays
// open.
func (s *Store) Close() error {
	s.cancel()
	s.wg.Wait()
	s.marks.stop()
	s.mu.Lock()
	kinds := s.kinds
	s.kinds = map[*api.Kind]*cached{}
	s.mu.Unlock()
	for _, c := range kinds {
		c.cache.close()
	}
	s.mutations.check()
	return nil
}

// CheckMutations looks at every shared object now; see Config.Mutated.
func (s *Store) CheckMutations() { s.mutations.check() }

func (s *Store) transformer(gr schema.GroupResource) Transformer {
	if s.cfg.Transformer == nil {
		return nil
	}
	return s.cfg.Transformer(gr)
}
