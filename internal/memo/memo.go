// Package memo remembers a bounded number of values by key: verdicts that are
// dear to reach go in, and come out again as long as there is room for them.
package memo

import "sync"

// Memo forgets an arbitrary value when it is full: who fills it slows others
// down, never breaks them. It is safe for concurrent use.
type Memo[K comparable, V any] struct {
	mu  sync.RWMutex
	max int
	m   map[K]V
}

// New makes a Memo of at most maximum values.
func New[K comparable, V any](maximum int) *Memo[K, V] {
	return &Memo[K, V]{max: maximum, m: map[K]V{}}
}

// Get returns what is remembered of k.
func (m *Memo[K, V]) Get(k K) (V, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.m[k]
	return v, ok
}

// Put remembers v, or anew.
func (m *Memo[K, V]) Put(k K, v V) {
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
