// Command mkassets fills the folder that cox embeds: helper programs go in,
// compressed files named after the hash of their content come out, so that
// cox need not hash them when it starts.
//
// Usage: mkassets -out DIR [-demo PROGRAM] PROGRAM...
package main

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/klauspost/compress/s2"

	"github.com/coxswain/cox/runtime/archive"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("mkassets: ")
	out := flag.String("out", "", "`folder` to fill")
	demo := flag.String("demo", "", "`program` to pack as the demo image")
	arch := flag.String("arch", runtime.GOARCH, "architecture of the programs")
	flag.Parse()
	if err := run(*out, *arch, *demo, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

func run(out, arch, demo string, programs []string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, path := range programs {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		z, err := compress(b)
		if err != nil {
			return err
		}
		if err := put(out, filepath.Base(path), b, z, ".s2"); err != nil {
			return err
		}
	}
	if demo == "" {
		return nil
	}
	b, err := os.ReadFile(demo)
	if err != nil {
		return err
	}
	images := make([]archive.Image, 2)
	for i, color := range []string{"steelblue", "seagreen"} {
		images[i] = archive.Image{
			Name: fmt.Sprintf("cox.local/demo:%d", i+1), Arch: arch,
			Files:      []archive.File{{Path: "demo", Mode: 0o755, Data: b}},
			Entrypoint: []string{"/demo"},
			Env:        []string{fmt.Sprintf("VERSION=%d", i+1), "COLOR=" + color},
			User:       "65534:65534", Ports: []string{"8080/tcp"},
			Labels: map[string]string{"org.opencontainers.image.title": "Coxswain demo", "org.opencontainers.image.version": fmt.Sprint(i + 1)},
		}
	}
	var tar bytes.Buffer
	if err := archive.Write(&tar, images...); err != nil {
		return err
	}
	return put(out, "demo", tar.Bytes(), tar.Bytes(), ".tar")
}

// put writes stored as NAME.HASH.EXT, hashed over content, in place of what
// was there under the name.
func put(dir, name string, content, stored []byte, ext string) error {
	sum := sha256.Sum256(content)
	path := filepath.Join(dir, fmt.Sprintf("%s.%x%s", name, sum[:8], ext))
	old, err := filepath.Glob(filepath.Join(dir, name+".*.*"))
	if err != nil {
		return err
	}
	for _, o := range old {
		if o != path {
			if err := os.Remove(o); err != nil {
				return err
			}
		}
	}
	fmt.Printf("%s: %.1f MB from %.1f MB\n", strings.TrimPrefix(path, dir+"/"), float64(len(stored))/1e6, float64(len(content))/1e6)
	return os.WriteFile(path, stored, 0o644)
}

// compress favours speed over size: unpacking is part of the first start.
func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w := s2.NewWriter(&out, s2.WriterBestCompression(), s2.WriterBlockSize(4<<20))
	if _, err := io.Copy(w, bytes.NewReader(b)); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}
