package resourcequota

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/coxswain/cox/api/quota"
)

// ledger knows, per quota, what a count of objects alone cannot tell. Admission
// writes a charge into a quota before there is the object, so that a count may
// be behind the record; and that something is gone a count may show before the
// informer's handlers are told, or after. It is safe for concurrent use; the
// zero value is ready.
type ledger struct {
	mu       sync.Mutex
	accounts map[string]*account
}

type account struct {
	// version is the quota's last version that is known here, "" where a write
	// of ours may have made another. One that this controller has not written
	// may be a charge; charged is when it was seen.
	version string
	charged time.Time
	// owed is what was told to be gone and is still on record; where it is
	// negative, the record was lowered by what is still to be told.
	owed corev1.ResourceList
	// ahead is when the record was last lowered so. What is not told soon after
	// never was there: a charge for something that was not made.
	ahead time.Time
}

// view is what an account says at one moment.
type view struct {
	// gone is what the record is to be lowered by.
	gone corev1.ResourceList
	// wait is for how long charges may still be ahead of what is counted.
	wait time.Duration
}

// used is what a quota uses by a count and by what is on record: no less than
// what is on record without what has gone, while there may be charges in it
// for what is not seen yet.
func (v *view) used(counted, recorded corev1.ResourceList) corev1.ResourceList {
	out := counted.DeepCopy()
	if v.wait <= 0 {
		return out
	}
	for name, have := range out {
		if rest := minus(recorded[name], v.gone[name]); rest.Cmp(have) > 0 {
			out[name] = rest
		}
	}
	return out
}

func minus(a, b resource.Quantity) resource.Quantity {
	out := a.DeepCopy()
	out.Sub(b)
	return out
}

func (l *ledger) of(key string) *account {
	if l.accounts == nil {
		l.accounts = map[string]*account{}
	}
	a := l.accounts[key]
	if a == nil {
		a = &account{owed: corev1.ResourceList{}}
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

// told notes that so much has gone or shrunk.
func (l *ledger) told(key string, gone corev1.ResourceList, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	if now.Sub(a.ahead) >= recount {
		a.owed = positive(a.owed)
	}
	a.owed = quota.Add(a.owed, gone)
}

func positive(list corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, v := range list {
		if v.Sign() > 0 {
			out[name] = v.DeepCopy()
		}
	}
	return out
}

// look returns what is known of a quota of this version.
func (l *ledger) look(key, version string, now time.Time) view {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	// The informer's store shows a version before its handlers are told.
	a.saw(version, now)
	return view{gone: positive(a.owed), wait: a.charged.Add(recount).Sub(now)}
}

// settle notes that what is used was written in place of what was on record,
// as a version, by a view of the account. An empty version says that it is not
// known whether it was: then nothing of it is given back again but by a count.
func (l *ledger) settle(key, version string, v view, recorded, used corev1.ResourceList, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	a.version = version
	for name := range used {
		// All that had gone is settled, even where as much has come meanwhile.
		lowered, gone := minus(recorded[name], used[name]), v.gone[name]
		if lowered.Cmp(gone) > 0 {
			gone, a.ahead = lowered, now
		}
		a.owed[name] = minus(a.owed[name], gone)
	}
}

func (l *ledger) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.accounts, key)
}
