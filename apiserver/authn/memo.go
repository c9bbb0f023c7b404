package authn

import "sync"

// memo remembers a bounded number of verdicts. When it is full it forgets an
// arbitrary one: who fills it with many credentials slows down verification,
// never breaks it.
type memo[K comparable, V any] struct {
	mu  sync.RWMutex
	max int
	m   map[K]V
}

func newMemo[K comparable, V any](maximum int) *memo[K, V] {
	return &memo[K, V]{max: maximum, m: map[K]V{}}
}

func (m *memo[K, V]) get(k K) (V, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.m[k]
	return v, ok
}

func (m *memo[K, V]) put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.m[k]; !ok && len(m.m) >= m.max {
		for old := range m.m {
			delete(m.m, old)
			break
		}
	}
	m.m[k] = v
}
