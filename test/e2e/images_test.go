package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/coxswain/cox/runtime/archive"
	"github.com/coxswain/cox/test/programs"
)

// imagesOfNodes imports and removes an image on one node and on all. The
// cluster is named, as it has to be, and its folder is not: the further nodes
// are found all the same.
func imagesOfNodes(t *testing.T, c *cluster, first, second string) {
	const name = "example.local/nodes:1"
	path := filepath.Join(t.TempDir(), "nodes.tar")
	var b bytes.Buffer
	err := archive.Write(&b, archive.Image{Name: name, Arch: goruntime.GOARCH, Files: []archive.File{{Path: "greeting", Mode: 0o644, Data: []byte("hello")}}})
	if err := errors.Join(err, os.WriteFile(path, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	image := func(stdin io.Reader, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, programs.Cox(), append([]string{"image"}, append(args, "--config=/dev/null", "--name="+c.name)...)...)
		cmd.Stdin = stdin
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	// have says which nodes list it.
	have := func() string {
		var at []string
		for label, node := range map[string]string{"first": first, "second": second} {
			out, err := image(nil, "list", "--node="+node)
			if err != nil {
				t.Fatalf("list the images of %s: %v\n%s", node, err, out)
			}
			if strings.Contains(out, name) {
				at = append(at, label)
			}
		}
		if len(at) == 2 {
			return "both"
		}
		return strings.Join(at, "")
	}
	for _, s := range []struct {
		args  []string
		stdin bool
		fails string
		have  string
	}{
		{args: []string{"import", path}, have: "both"},
		{args: []string{"rm", name}, have: ""},
		{args: []string{"rm", name}, fails: "no such image", have: ""},
		{args: []string{"import", path, "--node=" + second}, have: "second"},
		{args: []string{"import", path, "--node=elsewhere"}, fails: first + ", " + second, have: "second"},
		{args: []string{"import", "-"}, stdin: true, have: "both"},
		{args: []string{"rm", name, "--node=" + second}, have: "first"},
		{args: []string{"rm", name}, have: ""},
	} {
		var stdin io.Reader
		if s.stdin {
			stdin = bytes.NewReader(b.Bytes())
		}
		out, err := image(stdin, s.args...)
		if (err != nil) != (s.fails != "") || !strings.Contains(out, s.fails) {
			t.Fatalf("cox image %v: %v\n%s", s.args, err, out)
		}
		if got := have(); got != s.have {
			t.Errorf("after cox image %v the image is at %q, want %q", s.args, got, s.have)
		}
	}
}
