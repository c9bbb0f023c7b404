package kubelet

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageGCPause is how long nothing is tried after an attempt to free images.
const imageGCPause = 5 * time.Minute

// imageUses remembers when images were last used, by id. It is safe for
// concurrent use.
type imageUses struct {
	mu   sync.Mutex
	seen map[string]time.Time // when first met
	used map[string]time.Time
}

func (u *imageUses) use(id string, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used[id] = at
	if _, ok := u.seen[id]; !ok {
		u.seen[id] = at
	}
}

// unused is an image that may go.
type unused struct {
	id         string
	size       int64
	seen, used time.Time
}

// freeable lists the images that may go, in that order: the least recently
// used first. Pinned ones, those in use and those met less than
// minAge ago stay.
func (u *imageUses) freeable(images []*runtimeapi.Image, inUse map[string]bool, now time.Time, minAge time.Duration) []unused {
	u.mu.Lock()
	defer u.mu.Unlock()
	there := map[string]bool{}
	var out []unused
	for _, i := range images {
		there[i.Id] = true
		if _, ok := u.seen[i.Id]; !ok {
			u.seen[i.Id] = now
		}
		names := append([]string{i.Id}, slices.Concat(i.RepoDigests, i.RepoTags)...)
		if slices.ContainsFunc(names, func(n string) bool { return inUse[n] }) {
			u.used[i.Id] = now
			continue
		}
		if i.Pinned || now.Sub(u.seen[i.Id]) < minAge || now.Sub(u.used[i.Id]) < minAge {
			continue
		}
		out = append(out, unused{i.Id, int64(i.Size), u.seen[i.Id], u.used[i.Id]})
	}
	for id := range u.seen {
		if !there[id] {
			delete(u.seen, id)
			delete(u.used, id)
		}
	}
	slices.SortFunc(out, func(a, b unused) int {
		return cmp.Or(a.used.Compare(b.used), a.seen.Compare(b.seen), cmp.Compare(a.id, b.id))
	})
	return out
}

// collectImages keeps the file system of the images between its thresholds.
func (k *Kubelet) collectImages(ctx context.Context, now time.Time, dir string) {
	var st unix.Statfs_t
	k.ageImages(ctx, now)
	if dir == "" || now.Sub(k.imagesFreed) < imageGCPause || unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return
	}
	size := int64(st.Blocks) * st.Bsize
	used := size - int64(st.Bavail)*st.Bsize
	if gc := &k.cfg.ImageGC; gc.High >= 100 || used*100 < size*int64(gc.High) {
		return
	}
	k.imagesFreed = now
	want := used - size*int64(k.cfg.ImageGC.Low)/100
	if got := k.freeImages(ctx, now, want); got < want {
		k.recorder.Eventf(nodeRef(k.cfg.NodeName), corev1.EventTypeWarning, "FreeDiskSpaceFailed",
			"Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, got)
	}
}

// freeImages removes unused images until want bytes are free, and returns how
// many are.
func (k *Kubelet) freeImages(ctx context.Context, now time.Time, want int64) int64 {
	var got int64
	for _, i := range k.unusedImages(ctx, now) {
		if got >= want || ctx.Err() != nil {
			break
		}
		if k.removeImage(ctx, i, "space") {
			got += i.size
		}
	}
	return got
}

// imageAgePeriod is how often unused images are looked at for their age.
const imageAgePeriod = 5 * time.Minute

// ageImages removes images that nothing has used for longer than MaxAge.
func (k *Kubelet) ageImages(ctx context.Context, now time.Time) {
	most := k.cfg.ImageGC.MaxAge
	if most == 0 || now.Sub(k.imagesAged) < min(imageAgePeriod, most) {
		return
	}
	k.imagesAged = now
	for _, i := range k.unusedImages(ctx, now) {
		since := i.used
		if since.Before(i.seen) {
			since = i.seen
		}
		if now.Sub(since) >= most {
			k.removeImage(ctx, i, "age")
		}
	}
}

// removeImage removes one, for its age or to make space.
func (k *Kubelet) removeImage(ctx context.Context, i unused, why string) bool {
	if _, err := k.cfg.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: i.id}}); err != nil {
		k.log.Warn("cannot remove an image", "image", i.id, "error", err)
		return false
	}
	k.log.Info("removed an image that nothing uses", "image", i.id, "bytes", i.size)
	k.counts.collected.WithLabelValues(why).Inc()
	k.pulled.Forget(i.id)
	k.imagesChanged()
	return true
}

// unusedImages lists the images that may go, the least recently used first.
func (k *Kubelet) unusedImages(ctx context.Context, now time.Time) []unused {
	images, err := k.cfg.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		k.log.Warn("cannot list the images", "error", err)
		return nil
	}
	containers, err := k.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		k.log.Warn("cannot list the runtime's containers", "error", err)
		return nil
	}
	inUse := map[string]bool{}
	for _, c := range containers.Containers {
		inUse[c.ImageRef], inUse[c.ImageId], inUse[c.GetImage().GetImage()] = true, true, true
	}
	for _, w := range k.allWorkers() {
		for _, name := range w.images() {
			inUse[name] = true
		}
	}
	return k.images.freeable(images.Images, inUse, now, k.cfg.ImageGC.MinAge)
}

// images are the names of the images that the pod's volumes and containers to
// come use.
func (w *worker) images() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Released || w.state.Rejected != nil {
		return nil
	}
	var out []string
	add := func(image string) {
		if name, err := normalImage(image); err == nil && image != "" {
			out = append(out, name)
		}
	}
	spec := &w.state.Pod.Spec
	for _, l := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range l {
			add(l[i].Image)
		}
	}
	for i := range spec.Volumes {
		if s := spec.Volumes[i].Image; s != nil {
			add(s.Reference)
		}
	}
	return out
}
