package storetest

import (
	"context"
	"testing"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
)

// Start returns a store of a table's kinds and the etcd below it, which is its
// own, in a folder that goes with the test as both of them do. In tests, unlike benchmarks, who
// changes a shared object is found out.
func Start(t testing.TB, table *api.Table) (*store.Store, *etcd.Server) {
	t.Helper()
	e, err := etcd.Start(context.Background(), etcd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	cfg := store.Config{Backend: e, Table: table, CompactEvery: -1}
	if _, bench := t.(*testing.B); !bench {
		cfg.Mutated = func(text string) { t.Errorf("shared object changed: %s", text) }
	}
	st, err := store.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.CheckMutations(); _ = st.Close() })
	return st, e
}
