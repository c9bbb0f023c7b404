package images

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestExportOfBrokenConfigurations: an image whose configuration is none, or
// goes not with its layers, is refused in words.
func TestExportOfBrokenConfigurations(t *testing.T) {
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(media string, raw []byte) ocispec.Descriptor {
		t.Helper()
		d := ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		if err := content.WriteBlob(context.Background(), store, d.Digest.String(), bytes.NewReader(raw), d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for config, want := range map[string]string{
		`null`: "its configuration: ", `[]`: "its configuration: ", `{"rootfs":7}`: "its configuration: ",
		`{"rootfs":{"type":"layers","diff_ids":["sha256:00"]}}`: "names 1 layers, it has 0",
	} {
		m, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: put(ocispec.MediaTypeImageConfig, []byte(config)), Layers: []ocispec.Descriptor{}})
		if err != nil {
			t.Fatal(err)
		}
		e := exporter{store: store}
		if _, err := e.manifest(t.Context(), put(ocispec.MediaTypeImageManifest, m)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}
