package store_test

import (
	"testing"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
	"github.com/coxswain/cox/store/storetest"
)

// startEtcd runs an empty etcd until the test ends.
func startEtcd(t testing.TB) *etcd.Server {
	t.Helper()
	srv, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

// open makes a store over an empty etcd. Every object that it shares is
// watched over.
func open(t testing.TB, cfg store.Config) (*store.Store, *etcd.Server) {
	t.Helper()
	srv := startEtcd(t)
	cfg.Backend = srv
	return openOn(t, cfg), srv
}

func openOn(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	table, err := storetest.Table()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Table = table
	if _, bench := t.(*testing.B); !bench {
		cfg.Mutated = func(text string) { t.Error(text) }
	}
	s, err := store.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// remote hides what an embedded etcd can do beyond an external one.
type remote struct{ store.Backend }

func suite(t *testing.T, backend func(*etcd.Server) store.Backend, kind func(*store.Store, *api.Kind) store.Interface) {
	storetest.Run(t, func(t *testing.T, o storetest.Options) *storetest.Fixture {
		etcd := backend(startEtcd(t))
		s := openOn(t, store.Config{Backend: etcd, History: o.History, BookmarkEvery: o.BookmarkEvery})
		if err := s.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		return &storetest.Fixture{Kind: func(k *api.Kind) store.Interface { return kind(s, k) }, Backend: etcd}
	})
}

func embedded(s *etcd.Server) store.Backend { return s }

func external(s *etcd.Server) store.Backend { return remote{s} }

func TestCached(t *testing.T) { suite(t, embedded, (*store.Store).Kind) }

func TestCachedRemote(t *testing.T) { suite(t, external, (*store.Store).Kind) }

func TestDirect(t *testing.T) { suite(t, embedded, (*store.Store).Direct) }
