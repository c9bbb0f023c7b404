// Package archive makes small OCI image archives: files and a configuration
// go in, a tar stream in the OCI image layout comes out. Equal input gives
// equal bytes.
package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// File is one file of an image's layer. Folders above it are made (0755).
type File struct {
	Path string // without the leading slash
	Mode int64
	Data []byte
}

// Image is what to put in an archive. Images that share Files share the blob.
type Image struct {
	// Name is the full reference, such as cox.local/pause:1.
	Name  string
	Arch  string // as GOARCH
	Files []File
	// The configuration, as the OCI image specification names its fields.
	Entrypoint, Cmd, Env []string
	User, WorkingDir     string
	Ports                []string // "8080/tcp"
	Labels               map[string]string
}

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+zstd"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type writer struct {
	tw   *tar.Writer
	seen map[string]bool
}

// Write writes an archive of the images to w.
func Write(w io.Writer, images ...Image) error {
	a := &writer{tw: tar.NewWriter(w), seen: map[string]bool{}}
	if err := a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	var index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	index.SchemaVersion, index.MediaType = 2, typeIndex
	for _, img := range images {
		d, err := a.image(img)
		if err != nil {
			return fmt.Errorf("image %s: %w", img.Name, err)
		}
		index.Manifests = append(index.Manifests, d)
	}
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := a.file("index.json", b); err != nil {
		return err
	}
	return a.tw.Close()
}

func (a *writer) file(name string, b []byte) error {
	if err := a.tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err := a.tw.Write(b)
	return err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (a *writer) blob(mediaType string, b []byte) (descriptor, error) {
	d := descriptor{MediaType: mediaType, Digest: digest(b), Size: len(b)}
	if a.seen[d.Digest] {
		return d, nil
	}
	a.seen[d.Digest] = true
	return d, a.file("blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:"), b)
}

func (a *writer) image(img Image) (descriptor, error) {
	layer, diffID, err := pack(img.Files)
	if err != nil {
		return descriptor{}, err
	}
	ld, err := a.blob(typeLayer, layer)
	if err != nil {
		return descriptor{}, err
	}
	ports := map[string]struct{}{}
	for _, p := range img.Ports {
		ports[p] = struct{}{}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": img.Arch, "os": "linux",
		"config": map[string]any{
			"Entrypoint": img.Entrypoint, "Cmd": img.Cmd, "Env": img.Env, "User": img.User,
			"WorkingDir": img.WorkingDir, "ExposedPorts": ports, "Labels": img.Labels,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diffID}},
	})
	if err != nil {
		return descriptor{}, err
	}
	cd, err := a.blob(typeConfig, config)
	if err != nil {
		return descriptor{}, err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": cd, "layers": []descriptor{ld},
	})
	if err != nil {
		return descriptor{}, err
	}
	md, err := a.blob(typeManifest, manifest)
	md.Platform = &platform{img.Arch, "linux"}
	// The second annotation is the one that containerd reads for a full name.
	md.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": img.Name[strings.LastIndexByte(img.Name, ':')+1:],
		"io.containerd.image.name":          img.Name,
	}
	return md, err
}

// pack makes a compressed layer and returns the digest of its tar.
func pack(files []File) ([]byte, string, error) {
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	made := map[string]bool{}
	sorted := append([]File(nil), files...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Path < sorted[j].Path })
	for _, f := range sorted {
		for i, c := range f.Path {
			if dir := f.Path[:i]; c == '/' && !made[dir] {
				made[dir] = true
				if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, Format: tar.FormatUSTAR}); err != nil {
					return nil, "", err
				}
			}
		}
		if err := tw.WriteHeader(&tar.Header{Name: f.Path, Mode: f.Mode, Size: int64(len(f.Data)), Format: tar.FormatUSTAR}); err != nil {
			return nil, "", err
		}
		if _, err := tw.Write(f.Data); err != nil {
			return nil, "", err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, "", err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, "", err
	}
	defer enc.Close()
	return enc.EncodeAll(raw.Bytes(), nil), digest(raw.Bytes()), nil
}
