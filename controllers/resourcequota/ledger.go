package resourcequota

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/api/quota"
)

// ledger knows, per quota, what a count of objects alone cannot tell: that
// something has been charged whose object the informers may not show yet, and
// what they have shown to be given back. It is safe for concurrent use; the
// zero value is ready.
type ledger struct {
	mu       sync.Mutex
	accounts map[string]*account
}

type account struct {
	charged time.Time
	freed   corev1.ResourceList
}

func (l *ledger) of(key string) *account {
	if l.accounts == nil {
		l.accounts = map[string]*account{}
	}
	a := l.accounts[key]
	if a == nil {
		a = &account{freed: corev1.ResourceList{}}
		l.accounts[key] = a
	}
	return a
}

// charge notes that a quota has been charged.
func (l *ledger) charge(key string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(key).charged = now
}

// free notes what something gave back that has gone or shrunk.
func (l *ledger) free(key string, list corev1.ResourceList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	a.freed = quota.Add(a.freed, list)
}

// look returns what has been given back since settle, and how long the quota's
// charges may still be ahead of the objects.
func (l *ledger) look(key string, now time.Time) (freed corev1.ResourceList, ahead time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	return a.freed.DeepCopy(), max(a.charged.Add(recount).Sub(now), 0)
}

// settle takes out of the account what is now in the quota's status.
func (l *ledger) settle(key string, freed corev1.ResourceList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	a.freed = quota.Subtract(a.freed, freed)
}

func (l *ledger) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.accounts, key)
}
