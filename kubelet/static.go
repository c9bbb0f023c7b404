package kubelet

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/client"
)

// maxManifest bounds a static pod's manifest, in bytes.
const maxManifest = 1 << 20

// runStatic keeps the pods of the folder running until ctx ends.
func (k *Kubelet) runStatic(ctx context.Context) {
	if err := os.MkdirAll(k.cfg.StaticPodDir, 0o700); err != nil {
		k.log.Error("cannot make the folder of static pods", "error", err)
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		defer w.Close()
		err = w.Add(k.cfg.StaticPodDir)
	}
	if err != nil {
		k.log.Error("cannot watch the folder of static pods; changes there go unnoticed", "folder", k.cfg.StaticPodDir, "error", err)
		k.readStatic()
		return
	}
	k.readStatic()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-w.Events:
			if !ok {
				return
			}
			// An editor makes several events of one change.
			settle(ctx, w)
			k.readStatic()
		case err := <-w.Errors:
			k.log.Warn("watching the folder of static pods", "error", err)
			k.readStatic()
		}
	}
}

// settle waits until the folder has been quiet for a moment.
func settle(ctx context.Context, w *fsnotify.Watcher) {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.Events:
			t.Reset(50 * time.Millisecond)
		case <-t.C:
			return
		}
	}
}

// Sources of static pods, as the annotation kubernetes.io/config.source names
// them.
const (
	fileSource = "file"
	urlSource  = "http"
)

// staticListed says that every source of static pods was read once: until then
// nobody can say which pods are orphans.
func (k *Kubelet) staticListed() bool {
	for source, used := range map[string]bool{fileSource: k.cfg.StaticPodDir != "", urlSource: k.cfg.StaticPodURL != ""} {
		if _, read := k.node.staticListed.Load(source); used && !read {
			return false
		}
	}
	return true
}

// readStatic brings the workers of static pods in line with the folder.
func (k *Kubelet) readStatic() {
	pods := map[types.UID]*corev1.Pod{}
	entries, err := os.ReadDir(k.cfg.StaticPodDir)
	if err != nil {
		k.log.Warn("cannot read the folder of static pods", "error", err)
		return
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(k.cfg.StaticPodDir, e.Name())
		pod, err := k.readManifest(path)
		if err != nil {
			k.log.Error("a static pod's manifest cannot be used", "file", path, "error", err)
			continue
		}
		pods[pod.UID] = pod
	}
	k.setStatic(fileSource, pods)
}

// setStatic brings the workers in line with the pods of one source.
func (k *Kubelet) setStatic(source string, pods map[types.UID]*corev1.Pod) {
	k.mu.Lock()
	var gone, added []*worker
	for uid, w := range k.workers {
		if w.static && pods[uid] == nil && w.asked().Annotations[annotationConfigSource] == source {
			gone = append(gone, w)
		}
	}
	for uid, pod := range pods {
		if k.workers[uid] == nil {
			added = append(added, k.add(pod, true))
		}
	}
	_, again := k.node.staticListed.Swap(source, true)
	late := !again && k.apiReady
	k.mu.Unlock()
	for _, w := range gone {
		w.gone()
	}
	for _, w := range added {
		w.sync()
		k.ensureMirror(w)
	}
	if late {
		k.clearOrphans()
	}
}

// runStaticURL asks for static pods again and again, as the configuration
// says, until ctx ends. While there is no answer those known go on.
func (k *Kubelet) runStaticURL(ctx context.Context) {
	c := &http.Client{Timeout: 10 * time.Second}
	var last []byte
	failing := false
	for ctx.Err() == nil {
		b, err := k.fetchStatic(ctx, c)
		if err == nil && (last == nil || !bytes.Equal(b, last)) {
			var pods map[types.UID]*corev1.Pod
			if pods, err = k.podsFrom(b); err == nil {
				k.setStatic(urlSource, pods)
				last = b
			}
		}
		if err != nil && !failing && ctx.Err() == nil {
			k.log.Warn("cannot read static pods, will try again", "url", k.cfg.StaticPodURL, "error", err)
		}
		failing = err != nil
		t := k.cfg.Clock.NewTimer(k.cfg.StaticPodPeriod)
		select {
		case <-ctx.Done():
		case <-t.C():
		}
		t.Stop()
	}
}

func (k *Kubelet) fetchStatic(ctx context.Context, c *http.Client) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.cfg.StaticPodURL, nil)
	if err != nil {
		return nil, err
	}
	req.Header = k.cfg.StaticPodHeaders.Clone()
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxManifest+1))
	if err == nil && (len(b) == 0 || len(b) > maxManifest) {
		err = fmt.Errorf("the answer has no or more than %d bytes", maxManifest)
	}
	return b, err
}

// podsFrom reads a Pod or a PodList.
func (k *Kubelet) podsFrom(b []byte) (map[types.UID]*corev1.Pod, error) {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(b, &meta); err != nil {
		return nil, err
	}
	items := [][]byte{b}
	if meta.Kind == "PodList" || meta.Kind == "List" {
		var list struct {
			Items []json.RawMessage `json:"items"`
		}
		if err := yaml.Unmarshal(b, &list); err != nil {
			return nil, err
		}
		items = nil
		for _, i := range list.Items {
			items = append(items, i)
		}
	}
	out := map[types.UID]*corev1.Pod{}
	for _, i := range items {
		pod, err := k.staticPod(i, urlSource, k.cfg.StaticPodURL)
		if err != nil {
			return nil, err
		}
		out[pod.UID] = pod
	}
	return out, nil
}

// readManifest reads a pod of the folder.
func (k *Kubelet) readManifest(path string) (*corev1.Pod, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("larger than %d bytes", maxManifest)
	}
	return k.staticPod(b, fileSource, path)
}

// staticPod reads a pod as a static pod of this node: its uid is the hash of
// where it comes from and what it says.
func (k *Kubelet) staticPod(b []byte, source, from string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict(b, pod); err != nil {
		return nil, err
	}
	if (pod.Kind != "Pod" || pod.APIVersion != "v1") && !(source == urlSource && pod.Kind == "" && pod.APIVersion == "") {
		return nil, fmt.Errorf("holds %s %s, want v1 Pod", pod.APIVersion, pod.Kind)
	}
	if pod.Name == "" || len(pod.Spec.Containers) == 0 {
		return nil, fmt.Errorf("the pod has no name or no containers")
	}
	h := md5.New() // names, not secures; users know it as a uid of this length
	fmt.Fprintf(h, "host:%s\n%s:%s\n", k.cfg.NodeName, source, from)
	h.Write(b)
	uid := hex.EncodeToString(h.Sum(nil))
	if pod.UID == "" {
		pod.UID = types.UID(uid)
	}
	pod.TypeMeta = metav1.TypeMeta{}
	pod.Name += "-" + strings.ToLower(k.cfg.NodeName)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	pod.Spec.NodeName = k.cfg.NodeName
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotationConfigHash] = uid
	pod.Annotations[annotationConfigSource] = source
	pod.Annotations[annotationConfigSeen] = k.cfg.Clock.Now().Format(time.RFC3339Nano)
	// A node that is tainted keeps its own pods.
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	if k.cfg.DefaultPod != nil {
		k.cfg.DefaultPod(pod)
	}
	return pod, nil
}

// staticWorker finds the worker whose static pod a mirror pod mirrors.
func (k *Kubelet) staticWorker(namespace, name string) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.workers {
		if !w.static {
			continue
		}
		w.mu.Lock()
		hit := w.state.Pod.Namespace == namespace && w.state.Pod.Name == name && !w.state.Gone
		w.mu.Unlock()
		if hit {
			return w
		}
	}
	return nil
}

// apiPod finds the API's object of a pod: of a static pod it is the mirror.
func (k *Kubelet) apiPod(uid types.UID) *corev1.Pod {
	w := k.worker(uid)
	if w == nil {
		return nil
	}
	w.mu.Lock()
	pod, static := w.state.Pod, w.static
	w.mu.Unlock()
	if !static {
		return pod
	}
	mirror, ok := k.pods.Get(pod.Namespace, pod.Name)
	if !ok || mirror.Annotations[annotationConfigMirror] != pod.Annotations[annotationConfigHash] {
		return nil
	}
	return mirror
}

// ensureMirror shows a static pod in the API, once the node is registered.
func (k *Kubelet) ensureMirror(w *worker) {
	k.ops.Go(func() {
		select {
		case <-k.ready:
		case <-w.ctx.Done():
			return
		}
		w.mu.Lock()
		pod := w.state.Pod.DeepCopy()
		gone := w.state.Gone
		w.mu.Unlock()
		node := k.node.current()
		if gone || node == nil {
			return
		}
		pod.Annotations[annotationConfigMirror] = pod.Annotations[annotationConfigHash]
		isController := true
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &isController}}
		pod.UID, pod.ResourceVersion, pod.Status = "", "", corev1.PodStatus{}
		for pause := 100 * time.Millisecond; w.ctx.Err() == nil; pause = min(2*pause, 10*time.Second) {
			_, err := client.Pods.In(k.cfg.Client, pod.Namespace).Create(w.ctx, pod.DeepCopy())
			if err == nil || apierrors.IsAlreadyExists(err) {
				if old, ok := k.pods.Get(pod.Namespace, pod.Name); err != nil && ok {
					k.mirrorChanged(old)
				}
				return
			}
			k.log.Warn("cannot make a mirror pod, will retry", "pod", podTitle(pod), "error", err)
			t := k.cfg.Clock.NewTimer(pause)
			select {
			case <-t.C():
			case <-w.ctx.Done():
			}
			t.Stop()
		}
	})
}

// mirrorChanged handles a mirror pod of the API: one that mirrors nothing (any
// more) is removed, one that is being deleted is let go.
func (k *Kubelet) mirrorChanged(mirror *corev1.Pod) {
	w := k.staticWorker(mirror.Namespace, mirror.Name)
	if w == nil && !k.staticListed() {
		return // not all sources have been read yet
	}
	if w != nil && mirror.DeletionTimestamp == nil {
		w.mu.Lock()
		same := w.state.Pod.Annotations[annotationConfigHash] == mirror.Annotations[annotationConfigMirror]
		uid := w.uid
		w.mu.Unlock()
		if same {
			k.status.resend(uid)
			return
		}
	}
	k.deleteMirror(mirror)
}

func (k *Kubelet) deleteMirror(mirror *corev1.Pod) {
	k.ops.Go(func() {
		zero := int64(0)
		err := client.Pods.In(k.cfg.Client, mirror.Namespace).Delete(k.ctx, mirror.Name, client.Options{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &mirror.UID},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			k.log.Warn("cannot delete a mirror pod", "pod", podTitle(mirror), "error", err)
		}
	})
}

// mirrorGone makes a mirror pod again whose static pod still is.
func (k *Kubelet) mirrorGone(mirror *corev1.Pod) {
	if w := k.staticWorker(mirror.Namespace, mirror.Name); w != nil {
		k.ensureMirror(w)
	}
}

// staticForgotten removes the mirror of a static pod that has ended.
func (k *Kubelet) staticForgotten(types.UID) {
	if k.pods.SharedIndexInformer == nil {
		return
	}
	for _, pod := range k.pods.List("", nil) {
		if _, ok := pod.Annotations[annotationConfigMirror]; ok {
			k.mirrorChanged(pod)
		}
	}
}
