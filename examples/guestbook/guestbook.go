// Package guestbook is an example application in three tiers: what goes in are
// programs that this machine has installed, what comes out are the images that
// the manifests beside this file name.
package guestbook

import (
	"embed"

	"github.com/coxswain/cox/examples/programs"
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
	web := programs.Image{
		Programs:   []string{"nginx"},
		Files:      map[string]string{"etc/nginx/mime.types": "types { text/html html; }\n"},
		Entrypoint: []string{"nginx", "-e", "stderr", "-g", "daemon off;"},
		// As in nginx's own image: finish the requests under way, then end.
		StopSignal: "SIGQUIT",
	}
	return programs.Archive(path, map[string]programs.Image{
		"example.local/web:1": web.With("srv/version", "1\n"),
		"example.local/web:2": web.With("srv/version", "2\n"),
		"example.local/redis:1": {
			Programs:   []string{"redis-server", "redis-cli", "busybox"},
			Applets:    []string{"sh", "httpd", "sed", "wget", "grep", "cat", "sleep", "test", "seq", "tar", "true", "false"},
			Entrypoint: []string{"redis-server"},
		},
	}, Programs)
}
