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

// Bounds of image garbage collection (imageGCHighThresholdPercent,
// imageGCLowThresholdPercent and imageMinimumGCAge of the kubelet's
// configuration).
const (
	imageHighPercent = 85
	imageLowPercent  = 80
	imageMinAge      = 2 * time.Minute
	imageGCPause     = 5 * time.Minute // after an attempt
)

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
// used first. Pinned ones, those in use and those just met stay.
func (u *imageUses) freeable(images []*runtimeapi.Image, inUse map[string]bool, now time.Time) []unused {
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
		if i.Pinned || now.Sub(u.seen[i.Id]) < imageMinAge || now.Sub(u.used[i.Id]) < imageMinAge {
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
	if dir == "" || now.Sub(k.imagesFreed) < imageGCPause || unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return
	}
	size := int64(st.Blocks) * st.Bsize
	used := size - int64(st.Bavail)*st.Bsize
	if used*100 < size*imageHighPercent {
		return
	}
	k.imagesFreed = now
	want := used - size*imageLowPercent/100
	if got := k.freeImages(ctx, now, want); got < want {
		k.recorder.Eventf(nodeRef(k.cfg.NodeName), corev1.EventTypeWarning, "FreeDiskSpaceFailed",
			"Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, got)
	}
}

// freeImages removes unused images until want bytes are free, and returns how
// many are.
func (k *Kubelet) freeImages(ctx context.Context, now time.Time, want int64) int64 {
	images, err := k.cfg.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		k.log.Warn("cannot list the images", "error", err)
		return 0
	}
	containers, err := k.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		k.log.Warn("cannot list the runtime's containers", "error", err)
		return 0
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
	var got int64
	for _, i := range k.images.freeable(images.Images, inUse, now) {
		if got >= want || ctx.Err() != nil {
			break
		}
		if _, err := k.cfg.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: i.id}}); err != nil {
			k.log.Warn("cannot remove an image", "image", i.id, "error", err)
			continue
		}
		k.log.Info("removed an image that nothing uses", "image", i.id, "bytes", i.size)
		got += i.size
		k.imagesChanged()
	}
	return got
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
