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

// chanBufLen is how many writes a watch may lag behind before etcd takes it for
// one of the past, which waits for the next look.
//
//go:linkname chanBufLen go.etcd.io/etcd/server/v3/storage/mvcc.chanBufLen
var chanBufLen int

// lag takes the place of etcd's 128, which a burst of writes fills while the
// reader of the one watch that there is waits for its turn on the CPU.
const lag = 2048

// resync takes the place of etcd's tenth of a second, which was half of what an
// idle server did. Only a watch that begins in the past waits for it; ours
// begins where the list ended, which is the past only if others write meanwhile.
const resync = 500 * time.Millisecond

// quieten is to be called before etcd starts in this process. Should etcd not
// know a variable any longer, it is zero, stays so, and a test fails.
var quieten = sync.OnceFunc(func() {
	if chanBufLen != 0 {
		chanBufLen = lag
	}
	if watchResyncPeriod != 0 {
		watchResyncPeriod = resync
	}
})
