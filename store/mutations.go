package store

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
)

// mutations finds who changes shared objects. A nil *mutations does nothing.
type mutations struct {
	report func(string)

	mu   sync.Mutex
	seen []published
}

type published struct {
	entry *Entry
	copy  runtime.Object
}

func (m *mutations) publish(e *Entry) {
	if m == nil {
		return
	}
	p := published{e, e.Object.DeepCopyObject()}
	m.mu.Lock()
	m.seen = append(m.seen, p)
	m.mu.Unlock()
}

func (m *mutations) check() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, p := range m.seen {
		if reflect.DeepEqual(p.entry.Object, p.copy) {
			continue
		}
		was, _ := json.Marshal(p.copy)
		is, _ := json.Marshal(p.entry.Object)
		m.report(fmt.Sprintf("shared object %s at revision %d was changed:\nwas %s\nis  %s", p.entry.Key, p.entry.Revision, was, is))
		m.seen[i].copy = p.entry.Object.DeepCopyObject()
	}
}
