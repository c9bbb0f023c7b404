package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coxswain/cox/test/apiproc"
)

// TestAgentFindsTheOtherServer ends the server under an agent that was told of
// no other: the cluster's second server gives it its next pod.
func TestAgentFindsTheOtherServer(t *testing.T) {
	first := ownCluster(t)
	etcd := apiproc.Etcd(t)
	first.flags = append(first.flags, "--etcd-servers="+etcd)
	_, node := twoNodes(t, first)

	second := ownCluster(t)
	for i, f := range second.flags {
		for _, same := range []string{"--cluster-cidr=", "--service-cidr=", "--service-node-port-range="} {
			if strings.HasPrefix(f, same) {
				second.flags[i] = same + first.flag(strings.Trim(same, "-="))
			}
		}
	}
	second.flags = append(second.flags, "--etcd-servers="+etcd, "--disable-agent")
	if err := os.Mkdir(second.data, 0o700); err != nil {
		t.Fatal(err)
	}
	output(t, "cp", "-a", filepath.Join(first.data, "pki"), second.data)
	second.must(t, "up")
	known := filepath.Join(first.data, "nodes", "2", "cox", "agent", "servers.json")
	eventually(t, "the agent's knowledge of the second server", func() (bool, string) {
		raw, err := os.ReadFile(known)
		return err == nil && strings.Contains(string(raw), ":"+second.flag("https-listen-port")), string(raw)
	})

	killServer(t, first)
	second.demo(t, "later", node, "")
	second.kubectl(t, "wait", "--for=condition=Ready", "pod/later", "--timeout=2m")
}
