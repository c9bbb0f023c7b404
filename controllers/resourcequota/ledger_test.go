package resourcequota

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func podCount(n int64) corev1.ResourceList {
	return corev1.ResourceList{"pods": *resource.NewQuantity(n, resource.DecimalSI)}
}

// What was charged a moment ago may have no object yet, and what has gone is
// given back all the same; later, the count is right.
func TestUsed(t *testing.T) {
	for _, tc := range []struct{ counted, recorded, gone, early, late int64 }{
		{2, 3, 0, 3, 2}, {2, 3, 1, 2, 2}, {1, 3, 1, 2, 1}, {3, 3, 1, 3, 3}, {4, 3, 0, 4, 4}, {0, 1, 2, 0, 0},
	} {
		early, late := view{podCount(tc.gone), time.Second}, view{podCount(tc.gone), 0}
		e, l := early.used(podCount(tc.counted), podCount(tc.recorded))["pods"], late.used(podCount(tc.counted), podCount(tc.recorded))["pods"]
		if e.Value() != tc.early || l.Value() != tc.late {
			t.Errorf("%+v: %s, then %s", tc, e.String(), l.String())
		}
	}
}

// What is counted, given back and charged at once is told apart: nothing is
// given back twice, and nothing is lowered past a charge that is not seen yet.
func TestLedger(t *testing.T) {
	const key = "here/some"
	start := time.Unix(1e9, 0)
	// settle has the account lowered from 5 by n.
	settle := func(l *ledger, version string, n int64, at time.Time) {
		l.settle(key, version, l.look(key, "8", at), podCount(5), podCount(5-n), at)
	}
	for _, tc := range []struct {
		name string
		do   func(l *ledger)
		// version, and what look returns of it after recount.
		version string
		gone    int64
		wait    time.Duration
	}{
		{"a version of others may be a charge", func(*ledger) {}, "9", 0, recount},
		{"our own is none", func(l *ledger) { settle(l, "9", 0, start) }, "9", 0, 0},
		{"what is told is given back", func(l *ledger) { l.told(key, podCount(2), start) }, "8", 2, 0},
		{"once", func(l *ledger) {
			l.told(key, podCount(2), start)
			settle(l, "8", 2, start)
		}, "8", 0, 0},
		{"even where as much has come", func(l *ledger) {
			l.told(key, podCount(2), start)
			settle(l, "8", 0, start)
		}, "8", 0, 0},
		{"what is counted before it is told is not given back again", func(l *ledger) {
			settle(l, "8", 2, start)
			l.told(key, podCount(1), start)
			l.told(key, podCount(1), start)
			l.told(key, podCount(3), start)
		}, "8", 3, 0},
		{"though it is counted once more meanwhile", func(l *ledger) {
			settle(l, "8", 2, start)
			settle(l, "8", 0, start)
			l.told(key, podCount(2), start)
		}, "8", 0, 0},
		{"nor what is told while it is counted", func(l *ledger) {
			v := l.look(key, "8", start)
			l.told(key, podCount(1), start)
			l.settle(key, "8", v, podCount(5), podCount(4), start)
		}, "8", 0, 0},
		{"a count of long ago has no part in it", func(l *ledger) {
			settle(l, "8", 2, start)
			l.told(key, podCount(1), start.Add(recount))
		}, "8", 1, 0},
		{"what may have been written is not given back again", func(l *ledger) {
			l.told(key, podCount(1), start)
			settle(l, "", 1, start)
		}, "8", 0, recount},
	} {
		var l ledger
		l.saw(key, "8", start)
		tc.do(&l)
		got := l.look(key, tc.version, start.Add(recount))
		if n := got.gone["pods"]; n.Value() != tc.gone || max(got.wait, 0) != tc.wait {
			t.Errorf("%s: %s gone, wait for %v", tc.name, n.String(), got.wait)
		}
	}
}
