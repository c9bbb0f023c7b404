package client

import (
	"errors"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Writes remembers, per key, what this component's own writes did, so that a
// reconcile can wait until its informers have caught up instead of acting on
// a stale view: the newest resourceVersion that they returned, and what they
// deleted. The informer's event about the write puts the key back into the
// queue, so a reconcile that finds itself too early simply returns. It is
// safe for concurrent use; the zero value is ready.
//
// A write whose answer was lost may have been carried out: that is a Doubt,
// which only a look at the API settles (Learn).
type Writes struct {
	mu      sync.Mutex
	rv      map[string]uint64
	deleted map[string]map[types.UID]string
	doubt   map[string]bool
}

// Doubtful says that a write which failed so may have been carried out all the
// same: its answer did not come from the API server, or tells of the server's
// own trouble.
func Doubtful(err error) bool {
	if err == nil {
		return false
	}
	var status apierrors.APIStatus
	return !errors.As(err, &status) || status.Status().Code >= 500
}

// Wrote records that a write on behalf of key returned obj.
func (w *Writes) Wrote(key string, obj Object) {
	rv, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rv == nil {
		w.rv = map[string]uint64{}
	}
	w.rv[key] = max(w.rv[key], rv)
}

// Deleted records that obj is being deleted on behalf of key. Call it before
// the delete is sent (its event may come before its answer), and Undelete if
// it failed.
func (w *Writes) Deleted(key string, obj Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deleted == nil {
		w.deleted = map[string]map[types.UID]string{}
	}
	if w.deleted[key] == nil {
		w.deleted[key] = map[types.UID]string{}
	}
	w.deleted[key][obj.GetUID()] = cache.ObjectName{Namespace: obj.GetNamespace(), Name: obj.GetName()}.String()
}

// Undelete takes back a Deleted.
func (w *Writes) Undelete(key string, obj Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.deleted[key], obj.GetUID())
}

// Doubt records that a write on behalf of key may or may not have been carried
// out.
func (w *Writes) Doubt(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doubt == nil {
		w.doubt = map[string]bool{}
	}
	w.doubt[key] = true
}

// InDoubt says that Learn has to settle a Doubt before key's objects can be
// relied on.
func (w *Writes) InDoubt(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.doubt[key]
}

// Learn settles a Doubt. live are the objects that key's writes are about, as
// the API server has them: what the informer is to have seen, too. A deletion
// that was not carried out is taken back.
func (w *Writes) Learn(key string, live []Object) {
	for _, o := range live {
		w.Wrote(key, o)
		if o.GetDeletionTimestamp() == nil {
			w.Undelete(key, o)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.doubt, key)
}

// CaughtUp reports whether a store that has seen lastSyncResourceVersion has
// seen all writes recorded for key; it forgets the record once it has.
func (w *Writes) CaughtUp(key string, lastSyncResourceVersion string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	want, ok := w.rv[key]
	if !ok {
		return true
	}
	have, err := strconv.ParseUint(lastSyncResourceVersion, 10, 64)
	if err != nil || have < want {
		return false
	}
	delete(w.rv, key)
	return true
}

// deletesSeen asks seen about every deletion recorded for key and forgets
// those it has seen.
func (w *Writes) deletesSeen(key string, seen func(objKey string, uid types.UID) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid, objKey := range w.deleted[key] {
		if !seen(objKey, uid) {
			return false
		}
		delete(w.deleted[key], uid)
	}
	delete(w.deleted, key)
	return true
}

// Forget drops the record of a key whose object is gone.
func (w *Writes) Forget(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.rv, key)
	delete(w.deleted, key)
	delete(w.doubt, key)
}
