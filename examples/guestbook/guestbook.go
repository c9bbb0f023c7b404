// Package guestbook is an example application in three tiers: what goes in are
// programs that this machine has installed, what comes out are the images that
// the manifests beside this file name.
package guestbook

import (
	"embed"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Manifests are the application's YAML files.
//
//go:embed *.yaml
var Manifests embed.FS

// Programs are what must be installed for Images, with their Debian packages.
var Programs = map[string]string{
	"nginx": "nginx-light", "redis-server": "redis-server", "redis-cli": "redis-tools", "busybox": "busybox-static",
}

// Images writes a docker archive with all images of the application: two
// versions of its web server, and Redis. It fails if a program is missing.
func Images(path string) error {
	web := image{
		programs:   []string{"nginx"},
		files:      map[string]string{"etc/nginx/mime.types": "types { text/html html; }\n"},
		entrypoint: []string{"nginx", "-e", "stderr", "-g", "daemon off;"},
		// As in nginx's own image: finish the requests under way, then end.
		stopSignal: "SIGQUIT",
	}
	redis := image{
		programs:   []string{"redis-server", "redis-cli", "busybox"},
		applets:    []string{"sh", "httpd", "sed", "wget", "grep", "cat", "sleep", "test", "seq", "tar", "true", "false"},
		entrypoint: []string{"redis-server"},
	}
	all := map[name.Tag]v1.Image{}
	for tag, img := range map[string]image{
		"example.local/web:1":   web.with("srv/version", "1\n"),
		"example.local/web:2":   web.with("srv/version", "2\n"),
		"example.local/redis:1": redis,
	} {
		t, err := name.NewTag(tag)
		if err != nil {
			return err
		}
		if all[t], err = img.build(); err != nil {
			return fmt.Errorf("image %s: %w", tag, err)
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := tarball.MultiWrite(all, f); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}
