// Package nodettl tells kubelets for how long they may keep Secrets and
// ConfigMaps without asking again: the number of nodes in, an annotation of
// every node out. The larger the cluster, the longer.
package nodettl

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// step is what clusters of up to most nodes get, once they have had fewer
// than least: a number of nodes between the two keeps the step that it came
// from, lest a node more or less rewrites all of them.
type step struct {
	least, most int
	seconds     int
}

// steps are those of upstream's ttl-controller; the last has no upper bound.
var steps = []step{{0, 100, 0}, {90, 500, 15}, {450, 1000, 30}, {900, 2000, 60}, {1800, 1 << 30, 300}}

// Move returns the step that a cluster of so many nodes is at, which was at
// step at.
func Move(at, nodes int) int {
	for at < len(steps)-1 && nodes > steps[at].most {
		at++
	}
	for at > 0 && nodes < steps[at].least {
		at--
	}
	return at
}

// Lacks reports whether a node's annotation says something else than the
// step's number of seconds, which it returns as the annotation's text.
func Lacks(n *corev1.Node, at int) (text string, lacks bool) {
	text = strconv.Itoa(steps[at].seconds)
	have, ok := n.Annotations[corev1.ObjectTTLAnnotationKey]
	return text, !ok || have != text
}
