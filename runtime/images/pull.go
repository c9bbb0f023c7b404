package images

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pull brings an image from its registry or a mirror of it and returns its
// full name. auth may be nil. While it lasts, progress (nil for none) is told
// every so often how many bytes of how many are there.
func Pull(ctx context.Context, conn *grpc.ClientConn, name string, auth *runtimeapi.AuthConfig, every time.Duration, progress func(done, total int64)) (string, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	full := ref.String()
	if progress != nil {
		watched := make(chan struct{})
		ctx, stop := context.WithCancel(ctx)
		defer func() { stop(); <-watched }()
		go func() {
			defer close(watched)
			t := time.NewTicker(every)
			defer t.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-t.C:
				}
				if done, total, err := Progress(ctx, conn, full); err == nil && total > 0 {
					progress(done, total)
				}
			}
		}()
	}
	_, err = Service(conn).PullImage(ctx, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: full, UserSpecifiedImage: name}, Auth: auth,
	})
	if err != nil {
		return full, fmt.Errorf("pull %s: %w", full, err)
	}
	return full, nil
}

// Progress says how many bytes of an image that is being pulled are there, and
// how many it has. Both are 0 until its manifest is. CRI has no such call, so
// it is asked of containerd; with another runtime it fails.
func Progress(ctx context.Context, conn *grpc.ClientConn, image string) (done, total int64, err error) {
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		return 0, 0, err
	}
	c, err := containerd.NewWithConn(conn, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return 0, 0, err
	}
	ctx = namespaces.WithNamespace(ctx, namespace)
	store := c.ContentStore()
	active := map[digest.Digest]int64{}
	running, err := store.ListStatuses(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, s := range running {
		// A download is named after the kind and digest of what it brings.
		if _, d, ok := strings.Cut(s.Ref, "-"); ok && digest.Digest(d).Validate() == nil {
			active[digest.Digest(d)] = s.Offset
		}
	}
	if len(active) == 0 {
		return 0, 0, nil
	}
	manifests, err := pulledManifests(ctx, store, ref)
	for _, m := range manifests {
		if !slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { _, ok := active[l.Digest]; return ok }) {
			continue // of an earlier pull
		}
		for _, l := range m.Layers {
			total += l.Size
			if offset, ok := active[l.Digest]; ok {
				done += offset
			} else if _, err := store.Info(ctx, l.Digest); err == nil {
				done += l.Size
			}
		}
	}
	return done, total, err
}

// pulledManifests are the manifests in the store that came from a repository.
func pulledManifests(ctx context.Context, store content.Store, ref reference.Named) ([]ocispec.Manifest, error) {
	var out []ocispec.Manifest
	// containerd labels each blob with the host, without a port, that it came
	// from, and the repositories there.
	host, _, _ := strings.Cut(reference.Domain(ref), ":")
	from := fmt.Sprintf("labels.%q~=%q", "containerd.io/distribution.source."+host, `(^|,)`+reference.Path(ref)+`(,|$)`)
	err := store.Walk(ctx, func(i content.Info) error {
		if i.Labels["containerd.io/gc.ref.content.config"] == "" {
			return nil // a layer or an index
		}
		m, err := images.Manifest(ctx, store, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: i.Digest, Size: i.Size}, platforms.All)
		if err == nil {
			out = append(out, m)
		}
		return nil
	}, from)
	return out, err
}
