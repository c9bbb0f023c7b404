package kubelet_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/kubelet"
)

// TestStaticURL: static pods of a URL run, are shown, survive that the URL
// does not answer, and go when they are no longer there.
func TestStaticURL(t *testing.T) {
	w := newWorld(t)
	w.stop()
	const pod = "apiVersion: v1\nkind: Pod\n" +
		"metadata: {name: web, namespace: default}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{name: c, image: \"cox.local/busybox:1\", command: [sleep, \"1000\"]}]\n"
	var answer atomic.Value
	answer.Store(pod)
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		text := answer.Load().(string)
		if text == "" || r.Header.Get("X-Node") != "one" {
			http.Error(rw, "no", http.StatusInternalServerError)
			return
		}
		rw.Write([]byte(text))
	}))
	defer s.Close()
	w.change = func(c *kubelet.Config) {
		c.StaticPodURL, c.StaticPodPeriod, c.StaticPodHeaders = s.URL, 100*time.Millisecond, http.Header{"X-Node": {"one"}}
	}
	w.startKubelet()
	name := "web-" + nodeName
	p := w.until(name, "ready", isReady)
	if p.Annotations["kubernetes.io/config.source"] != "http" {
		t.Errorf("annotations %v", p.Annotations)
	}
	answer.Store("")
	n := asked.Load()
	w.eventually("it asks again", func() bool { return asked.Load() > n+2 })
	if p := w.until(name, "there", func(*corev1.Pod) bool { return true }); !isReady(p) {
		t.Error("the pod did not survive that the URL does not answer")
	}
	answer.Store(`{"apiVersion":"v1","kind":"PodList","items":[]}`)
	w.until(name, "gone", gone)
}
