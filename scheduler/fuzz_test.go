package scheduler

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/internal/warp"
)

// FuzzPlace schedules pods to nodes that nobody has validated: each gets a node
// or a reason, and the same again.
func FuzzPlace(f *testing.F) {
	parse := func(text string) (v any) {
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			f.Fatal(err)
		}
		return v
	}
	aPod := parse(`{"metadata":{"namespace":"default","name":"p","uid":"p","labels":{"app":"a"}},"spec":{"schedulerName":"default-scheduler","nodeSelector":{"a":"b"},"priority":5,"overhead":{"cpu":"1m"},"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"100m","memory":"1Mi","example.com/x":"1"}},"ports":[{"hostPort":80,"containerPort":80,"hostIP":"0.0.0.0"}]}],"initContainers":[{"name":"i","image":"i","restartPolicy":"Always","resources":{"requests":{"cpu":"1"}}}],"tolerations":[{"key":"k","operator":"Exists","effect":"NoSchedule"}],"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"In","values":["b"]},{"key":"n","operator":"Gt","values":["3"]}],"matchFields":[{"key":"metadata.name","operator":"In","values":["n1"]}]}]},"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":3,"preference":{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}}]},"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"app":"a"}},"namespaces":["default"],"matchLabelKeys":["app"]}]},"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":{"topologyKey":"zone","namespaceSelector":{}}}]}},"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule","labelSelector":{"matchLabels":{"app":"a"}},"minDomains":2,"nodeTaintsPolicy":"Honor"}]}}`)
	aNode := parse(`{"metadata":{"name":"n1","labels":{"kubernetes.io/hostname":"n1","a":"b","n":"5","zone":"z"}},"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]},"status":{"allocatable":{"cpu":"4","memory":"8Gi","pods":"10","example.com/x":"2"},"images":[{"names":["i:latest"],"sizeBytes":50000000}]}}`)
	for _, how := range []string{"", "\x01\x01\x02\x03", "\x02\x01\x01\x01\x05\x03\x07", "\x02\x03\x01\x04\x01\x05\x09"} {
		f.Add([]byte(how), []byte{}, []byte{})
		f.Add([]byte(how), []byte(how), []byte(how))
	}
	f.Fuzz(func(t *testing.T, how, nodes, others []byte) {
		into := func(v any, how []byte, to any) bool {
			text, err := json.Marshal(warp.Value(v, how))
			return err == nil && json.Unmarshal(text, to) == nil
		}
		p, other, n := &corev1.Pod{}, &corev1.Pod{}, &corev1.Node{}
		if !into(aPod, how, p) || !into(aPod, others, other) || !into(aNode, nodes, n) || n.Name == "" {
			return
		}
		other.Name, other.UID = "other", "other"
		s := snapshot([]*corev1.Node{n, node("n2", nodeLabel("zone", "y"))}, map[string][]*corev1.Pod{"n2": {other}})
		on, why := place(s, p)
		if (on == "") != (why != "") {
			t.Errorf("on %q because %q", on, why)
		}
		if again, _ := place(s, p); again != on {
			t.Errorf("on %q, and then on %q", on, again)
		}
	})
}
