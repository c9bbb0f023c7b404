package etcd

import (
	"sync"
	"time"
	_ "unsafe" // for go:linkname
)

// watchResyncPeriod is how often etcd looks whether there are watches that have
// yet to catch up with the past. It has no setting but etcd's own variable.
//
//go:linkname watchResyncPeriod go.etcd.io/etcd/server/v3/storage/mvcc.watchResyncPeriod
var watchResyncPeriod time.Duration

// resync takes the place of etcd's tenth of a second, which was half of what an
// idle server did. Only a watch that begins in the past waits for it; ours
// begins where the list ended, which is the past only if others write meanwhile.
const resync = 500 * time.Millisecond

// quieten is to be called before etcd starts in this process. Should etcd not
// know the variable any longer, it is zero, stays so, and a test fails.
var quieten = sync.OnceFunc(func() {
	if watchResyncPeriod != 0 {
		watchResyncPeriod = resync
	}
})
