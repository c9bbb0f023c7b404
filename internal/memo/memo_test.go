package memo

import "testing"

func TestBounded(t *testing.T) {
	m := New[int, int](10)
	for i := range 100 {
		m.Put(i, 2*i)
		if v, ok := m.Get(i); !ok || v != 2*i {
			t.Fatalf("what was just put is not there: %d, %v", v, ok)
		}
		if len(m.m) > 10 {
			t.Fatalf("holds %d", len(m.m))
		}
	}
	m.Put(99, 1)
	if v, _ := m.Get(99); v != 1 || len(m.m) != 10 {
		t.Errorf("replaced: %d, holds %d", v, len(m.m))
	}
}
