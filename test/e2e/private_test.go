package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// private serves the one image of an archive, as /demo, to those who have a
// password. It returns the registry's host and port.
func private(t *testing.T, archive string, passwords map[string]string) string {
	t.Helper()
	return registry(t, archive, func(w http.ResponseWriter, req *http.Request) bool {
		user, password, _ := req.BasicAuth()
		want, ok := passwords[user]
		if ok = ok && password == want; !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
		}
		return ok
	})
}

// TestPrivateImage has pods with and without credentials ask for an image that
// is on the node because one of them could pull it.
func TestPrivateImage(t *testing.T) {
	c := ownCluster(t)
	c.must(t, "up")
	c.awaitAccount(t)
	archive := filepath.Join(t.TempDir(), "demo.tar")
	eventually(t, "the demo image", func() (bool, string) { // it is imported beside the start
		out, err := c.run("image", "export", "cox.local/demo:1", "--output="+archive)
		return err == nil, out
	})
	host := private(t, archive, map[string]string{"one": "x", "two": "y"})
	for secret, user := range map[string]string{"one": "one x", "copy": "one x", "two": "two y", "wrong": "two x"} {
		name, password, _ := strings.Cut(user, " ")
		c.kubectl(t, "create", "secret", "docker-registry", secret, "--docker-server="+host, "--docker-username="+name, "--docker-password="+password)
	}
	start := func(pod, policy, secret string) {
		secrets := ""
		if secret != "" {
			secrets = fmt.Sprintf(`,"imagePullSecrets":[{"name":%q}]`, secret)
		}
		c.kubectl(t, "run", pod, "--image="+host+"/demo:1", "--image-pull-policy="+policy, `--overrides={"spec":{"terminationGracePeriodSeconds":1`+secrets+`}}`)
	}
	refused := func(pod string, reasons ...string) {
		t.Helper()
		eventually(t, pod, func() (bool, string) {
			why := c.kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}")
			for _, r := range reasons {
				if why == r {
					return true, why
				}
			}
			return false, c.kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status}")
		})
	}
	start("first", "IfNotPresent", "one")
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/first", "--timeout=1m")
	check := func(life string) {
		start("same"+life, "Never", "one")
		start("copy"+life, "Never", "copy")
		start("none"+life, "IfNotPresent", "")
		start("wrong"+life, "IfNotPresent", "wrong")
		start("never"+life, "Never", "")
		c.kubectl(t, "wait", "--for=condition=Ready", "pod/same"+life, "pod/copy"+life, "--timeout=1m")
		refused("none"+life, "ErrImagePull", "ImagePullBackOff")
		refused("wrong"+life, "ErrImagePull", "ImagePullBackOff")
		refused("never"+life, "ErrImageNeverPull")
	}
	check("")
	killServer(t, c)
	c.must(t, "up")
	check("-later")
	start("never-two", "Never", "two")
	refused("never-two", "ErrImageNeverPull") // the registry would let it, but it may not ask
	start("two", "IfNotPresent", "two")
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/two", "--timeout=1m")
	start("then-two", "Never", "two")
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/then-two", "--timeout=1m")
}
