// Package images feeds a node with images that come from no registry: OCI and
// docker archives go in, images that CRI can run come out. It speaks to
// containerd, in the namespace that its CRI service uses.
package images

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const namespace = "k8s.io"

// Image is one image as a node has it.
type Image struct {
	// ID is the digest of the configuration, "sha256:...".
	ID string
	// Names are full references with tag or digest, sorted.
	Names []string
	// Size is what the layers take compressed, in bytes.
	Size uint64
	// Pinned images are never removed to make room.
	Pinned bool
}

// Import reads an OCI or docker archive (a tar file, also gzip or zstd
// compressed), unpacks what in it is for this machine's platform, and returns
// the images' full names. name is for archives that name their images not or
// only by a tag; "" where they do. It returns once CRI knows the images.
func Import(ctx context.Context, conn *grpc.ClientConn, r io.Reader, name string) ([]string, error) {
	if name != "" {
		ref, err := reference.ParseDockerRef(name)
		if err != nil {
			return nil, fmt.Errorf("image name %q: %w", name, err)
		}
		name = ref.String()
	}
	r, closer, err := decompress(r)
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	defer closer()
	snapshotter, err := snapshotterOf(ctx, conn)
	if err != nil {
		return nil, err
	}
	c, err := containerd.NewWithConn(conn, containerd.WithDefaultNamespace(namespace), containerd.WithDefaultPlatform(platforms.Default()))
	if err != nil {
		return nil, err
	}
	ctx = namespaces.WithNamespace(ctx, namespace)
	// One lease over import and unpacking, lest the layers be collected
	// between the two.
	ctx, done, err := c.WithLease(ctx)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer done(context.WithoutCancel(ctx))
	found, err := c.Import(ctx, r, containerd.WithImageRefTranslator(translator(name)), containerd.WithDiscardUnpackedLayers(),
		containerd.WithImageLabels(map[string]string{"io.cri-containerd.image": "managed"}))
	switch {
	case errors.Is(err, images.ErrEmptyWalk):
		return nil, fmt.Errorf("the archive holds no image for %s", platforms.DefaultString())
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("the file is not a whole OCI or docker archive: %w", err)
	case err != nil:
		return nil, fmt.Errorf("import: %w", err)
	}
	if len(found) == 0 {
		return nil, errors.New("the archive does not say how its image is called; give it a name")
	}
	var names []string
	for _, img := range found {
		if err := containerd.NewImage(c, img).Unpack(ctx, snapshotter); err != nil {
			return names, fmt.Errorf("unpack %s: %w", img.Name, err)
		}
		if err := awaitCRI(ctx, conn, img.Name); err != nil {
			return names, err
		}
		names = append(names, img.Name)
	}
	sort.Strings(names)
	return names, nil
}

// translator makes a full reference of an OCI archive's reference name, which
// is by custom either one or only the tag.
func translator(name string) func(string) string {
	return func(ref string) string {
		if strings.ContainsAny(ref, ":/") {
			if full, err := reference.ParseDockerRef(ref); err == nil {
				return full.String()
			}
		}
		if name == "" {
			return ""
		}
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return ""
		}
		if tagged, err := reference.WithTag(reference.TrimNamed(named), ref); err == nil {
			return tagged.String()
		}
		return name
	}
}

func decompress(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(r, 64<<10)
	// A short archive shows as such in what reads it.
	head, _ := b.Peek(4)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		return z, func() {}, err
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return b, func() {}, nil
}

// snapshotterOf asks CRI which snapshotter its images live in: the folder
// that it reports is named after it.
func snapshotterOf(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	res, err := runtimeapi.NewImageServiceClient(conn).ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return "", fmt.Errorf("ask the container runtime for its image file system: %w", err)
	}
	const prefix = "io.containerd.snapshotter.v1."
	for _, f := range res.GetImageFilesystems() {
		if base := path.Base(f.GetFsId().GetMountpoint()); strings.HasPrefix(base, prefix) {
			return strings.TrimPrefix(base, prefix), nil
		}
	}
	return "", errors.New("this container runtime is not containerd: images cannot be imported through it")
}

// awaitCRI waits until CRI has seen the event of the new image, which takes a
// millisecond or so; there is nothing to wait on but asking.
func awaitCRI(ctx context.Context, conn *grpc.ClientConn, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := runtimeapi.NewImageServiceClient(conn)
	for {
		res, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil {
			return fmt.Errorf("wait for image %s: %w", name, err)
		}
		if res.GetImage() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for image %s: %w", name, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// List returns the node's images, by first name.
func List(ctx context.Context, conn *grpc.ClientConn) ([]Image, error) {
	res, err := runtimeapi.NewImageServiceClient(conn).ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []Image
	for _, i := range res.GetImages() {
		names := append(append([]string(nil), i.GetRepoTags()...), i.GetRepoDigests()...)
		sort.Strings(names)
		out = append(out, Image{ID: i.GetId(), Names: names, Size: i.GetSize(), Pinned: i.GetPinned()})
	}
	key := func(i Image) string { return strings.Join(append(i.Names, i.ID), " ") }
	sort.Slice(out, func(a, b int) bool { return key(out[a]) < key(out[b]) })
	return out, nil
}

// ErrNotFound is returned by Remove for an image that the node does not have.
var ErrNotFound = errors.New("there is no such image")

// Remove takes a name off an image, and the image with its last name, or with
// all of them where it is given by its ID. Containers that use it go on.
func Remove(ctx context.Context, conn *grpc.ClientConn, name string) error {
	cri := runtimeapi.NewImageServiceClient(conn)
	full := name
	if ref, err := reference.ParseDockerRef(name); err == nil && !strings.HasPrefix(name, "sha256:") {
		full = ref.String()
	}
	res, err := cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: full}})
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	img := res.GetImage()
	if img == nil {
		return fmt.Errorf("image %s: %w", name, ErrNotFound)
	}
	if len(img.GetRepoTags()) > 1 && contains(img.GetRepoTags(), full) {
		c, err := containerd.NewWithConn(conn, containerd.WithDefaultNamespace(namespace))
		if err != nil {
			return err
		}
		err = c.ImageService().Delete(namespaces.WithNamespace(ctx, namespace), full, images.SynchronousDelete())
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", name, err)
		}
		return nil
	}
	if _, err := cri.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: img.GetId()}}); err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
