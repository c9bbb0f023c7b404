package memory

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Pace lets the heap grow by percent of what is live before it is collected
// again, as GOGC does, but at least to floor bytes: to go over a small heap
// often costs more time than it saves memory. (An API server under writes takes
// 6 to 15 % less CPU each with a floor of 80 MB, and 20 to 50 MB more meanwhile.) What is garbage does not stay for
// long in any case, since the runtime collects every two minutes. The pace is
// adjusted at the end of each collection, for as long as the process runs; call
// it once.
func Pace(percent int, floor uint64) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 0
	var adjust func(*token)
	adjust = func(*token) {
		metrics.Read(live)
		if p := paceFor(live[0].Value.Uint64(), percent, floor); p != set {
			set = p
			debug.SetGCPercent(p)
		}
		runtime.SetFinalizer(&token{}, adjust) // of the next collection
	}
	adjust(nil)
}

// token is collected by every collection. It has a pointer, without which it
// would share its memory, and fate, with other small objects.
type token struct{ _ *token }

// paceFor is the GOGC at which a heap with so many live bytes is collected at
// the floor, or at percent more than is live. It is in steps of a tenth, so as
// not to change with every byte.
func paceFor(live uint64, percent int, floor uint64) int {
	const least = 4 << 20 // the runtime's own floor, at 100 %
	live = max(live, least)
	if live >= floor {
		return percent
	}
	p := int((floor - live) * 100 / live)
	return max(percent, p-p%10)
}
