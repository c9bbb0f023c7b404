package images

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Export writes images of this node, by name or ID, as an archive that is both
// an OCI layout and what docker loads. Nodes keep layers only unpacked, so the
// archive's are packed anew: the content is the same, the digests are not.
func Export(ctx context.Context, conn *grpc.ClientConn, w io.Writer, names ...string) error {
	snapshotter, err := snapshotterOf(ctx, conn)
	if err != nil {
		return err
	}
	c, err := containerd.NewWithConn(conn, containerd.WithDefaultNamespace(namespace), containerd.WithDefaultPlatform(platforms.Default()))
	if err != nil {
		return err
	}
	ctx = namespaces.WithNamespace(ctx, namespace)
	// What is packed here is let go with the lease.
	ctx, done, err := c.WithLease(ctx)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer done(context.WithoutCancel(ctx))
	e := exporter{store: c.ContentStore(), snapshots: c.SnapshotService(snapshotter), diff: c.DiffService()}
	var opts []archive.ExportOpt
	for _, name := range names {
		full, err := fullName(ctx, conn, name)
		if err != nil {
			return err
		}
		img, err := c.ImageService().Get(ctx, full)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		manifest, err := e.manifest(ctx, img.Target)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		opts = append(opts, archive.WithManifest(manifest, full))
	}
	if err := archive.Export(ctx, c.ContentStore(), w, opts...); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return nil
}

// fullName finds an image's reference with its tag.
func fullName(ctx context.Context, conn *grpc.ClientConn, name string) (string, error) {
	asked := name
	if ref, err := reference.ParseDockerRef(name); err == nil && !strings.HasPrefix(name, "sha256:") {
		asked = ref.String()
	}
	res, err := runtimeapi.NewImageServiceClient(conn).ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: asked}})
	if err != nil {
		return "", fmt.Errorf("image %s: %w", name, err)
	}
	img := res.GetImage()
	if img == nil {
		return "", fmt.Errorf("image %s: %w", name, ErrNotFound)
	}
	all := append(append([]string(nil), img.GetRepoTags()...), img.GetRepoDigests()...)
	if contains(all, asked) {
		return asked, nil
	}
	if len(all) == 0 {
		return img.GetId(), nil
	}
	return all[0], nil
}

// exporter packs images' layers.
type exporter struct {
	store     content.Store
	snapshots snapshots.Snapshotter
	diff      containerd.DiffService
}

// manifest returns an image's manifest for this platform, all of whose blobs
// are in the store.
func (e *exporter) manifest(ctx context.Context, target ocispec.Descriptor) (ocispec.Descriptor, error) {
	m, err := images.Manifest(ctx, e.store, target, platforms.Default())
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("read its manifest: %w", err)
	}
	raw, err := content.ReadBlob(ctx, e.store, m.Config)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("read its configuration: %w", err)
	}
	var config map[string]json.RawMessage
	var fs ocispec.RootFS
	if err = json.Unmarshal(raw, &config); err == nil {
		err = json.Unmarshal(config["rootfs"], &fs)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("its configuration: %w", err)
	}
	if len(fs.DiffIDs) != len(m.Layers) {
		return ocispec.Descriptor{}, fmt.Errorf("its configuration names %d layers, it has %d", len(fs.DiffIDs), len(m.Layers))
	}
	// The chain names are those of the original layers.
	chain := identity.ChainIDs(append([]digest.Digest(nil), fs.DiffIDs...))
	for i := range m.Layers {
		if _, err := e.store.Info(ctx, m.Layers[i].Digest); err == nil {
			continue
		} else if !errdefs.IsNotFound(err) {
			return ocispec.Descriptor{}, err
		}
		if m.Layers[i], fs.DiffIDs[i], err = e.pack(ctx, chain[i]); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("pack layer %d: %w", i+1, err)
		}
	}
	if config["rootfs"], err = json.Marshal(fs); err != nil {
		return ocispec.Descriptor{}, err
	}
	if m.Config, err = e.write(ctx, ocispec.MediaTypeImageConfig, config); err != nil {
		return ocispec.Descriptor{}, err
	}
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	out, err := e.write(ctx, m.MediaType, m)
	p := platforms.DefaultSpec()
	out.Platform = &p
	return out, err
}

// pack makes a layer of what a snapshot adds to the one below it.
func (e *exporter) pack(ctx context.Context, snapshot digest.Digest) (ocispec.Descriptor, digest.Digest, error) {
	layer, err := rootfs.CreateDiff(ctx, snapshot.String(), e.snapshots, e.diff, diff.WithMediaType(ocispec.MediaTypeImageLayerGzip))
	if err != nil {
		return layer, "", err
	}
	id, err := images.GetDiffID(ctx, e.store, layer)
	return layer, id, err
}

// write puts a JSON blob into the store.
func (e *exporter) write(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := content.WriteBlob(ctx, e.store, "cox-export-"+d.Digest.String(), bytes.NewReader(raw), d); err != nil {
		return d, fmt.Errorf("keep %s: %w", mediaType, err)
	}
	return d, nil
}
