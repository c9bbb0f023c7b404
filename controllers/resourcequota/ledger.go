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
	// version is the quota's last version that is known here. One that this
	// controller has not written itself may be a charge.
	version string
	charged time.Time
	// freed is what has been given back since the quota's status told of it.
	freed corev1.ResourceList
	// early is what a count at that time found gone before freed was told:
	// what is told a moment later is not to be given back once more.
	early   corev1.ResourceList
	counted time.Time
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

// saw notes that a quota has this version now.
func (l *ledger) saw(key, version string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(key).saw(version, now)
}

func (a *account) saw(version string, now time.Time) {
	if a.version != version {
		a.version, a.charged = version, now
	}
}

// free notes what something gave back that has gone or shrunk.
func (l *ledger) free(key string, list corev1.ResourceList, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	a.freed = quota.Add(a.freed, list)
	if now.Sub(a.counted) < recount {
		a.net()
	}
}

// net takes what has been found early and is told now out of both.
func (a *account) net() {
	both := corev1.ResourceList{}
	for name, v := range a.early {
		if w := a.freed[name]; w.Cmp(v) < 0 {
			v = w
		}
		both[name] = v
	}
	a.early, a.freed = quota.Subtract(a.early, both), quota.Subtract(a.freed, both)
}

// look returns what has been given back since settle, and how long the charges
// of a quota of this version may still be ahead of the objects.
func (l *ledger) look(key, version string, now time.Time) (freed corev1.ResourceList, ahead time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	// The informer's store shows a version before its handlers are told.
	a.saw(version, now)
	return a.freed.DeepCopy(), max(a.charged.Add(recount).Sub(now), 0)
}

// settle takes out of the account what is in the quota's status from this
// version on, which this controller has written, and notes what else was found
// to have gone.
func (l *ledger) settle(key, version string, freed, early corev1.ResourceList, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	a.version = version
	a.freed = quota.Subtract(a.freed, freed)
	if early != nil {
		a.early, a.counted = early, now
		a.net()
	}
}

// doubt says that it is not known whether the quota's status has been written.
// What was given back is not given back again but by a count.
func (l *ledger) doubt(key string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	a.freed, a.charged = corev1.ResourceList{}, now
}

func (l *ledger) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.accounts, key)
}
