package nodettl

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestMove(t *testing.T) {
	for _, c := range []struct{ at, nodes, want int }{
		{0, 0, 0}, {0, 100, 0}, {0, 101, 1}, {0, 501, 2}, {0, 5000, 4},
		{1, 95, 1}, {1, 90, 1}, {1, 89, 0}, {1, 500, 1}, {1, 501, 2},
		{2, 450, 2}, {2, 449, 1}, {4, 1800, 4}, {4, 1799, 3}, {4, 10, 0},
	} {
		if got := Move(c.at, c.nodes); got != c.want {
			t.Errorf("%d nodes from step %d: step %d, want %d", c.nodes, c.at, got, c.want)
		}
	}
}

func TestLacks(t *testing.T) {
	for name, c := range map[string]struct {
		have  map[string]string
		at    int
		text  string
		lacks bool
	}{
		"none":   {nil, 0, "0", true},
		"same":   {map[string]string{"node.alpha.kubernetes.io/ttl": "15"}, 1, "15", false},
		"other":  {map[string]string{"node.alpha.kubernetes.io/ttl": "0"}, 4, "300", true},
		"no int": {map[string]string{"node.alpha.kubernetes.io/ttl": "00"}, 0, "0", true},
	} {
		n := &corev1.Node{}
		n.Annotations = c.have
		if text, lacks := Lacks(n, c.at); text != c.text || lacks != c.lacks {
			t.Errorf("%s: %s %v", name, text, lacks)
		}
	}
}
