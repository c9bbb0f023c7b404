package memory

import "testing"

func TestPaceFor(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		live uint64
		want int
	}{
		{0, 1500}, {4 * mb, 1500}, {16 * mb, 300}, {32 * mb, 100}, {40 * mb, 60}, {50 * mb, 60}, {64 * mb, 60}, {500 * mb, 60},
	} {
		if got := paceFor(tt.live, 60, 64*mb); got != tt.want {
			t.Errorf("%d bytes live: %d, want %d", tt.live, got, tt.want)
		}
	}
}
