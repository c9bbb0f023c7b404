// Package postgresql is an example of a database as a StatefulSet: a primary
// and a streaming replica, each with a claim of its own.
package postgresql

import (
	"cmp"
	"embed"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/coxswain/cox/examples/programs"
)

// Manifests are the application's YAML files.
//
//go:embed *.yaml
var Manifests embed.FS

// Programs are what must be installed for Images, with their Debian packages.
var Programs = map[string]string{"postgres": "postgresql", "busybox": "busybox-static"}

// Images writes a docker archive with two versions of the image, which differ
// in a label file only. It fails if a program is missing.
func Images(path string) error {
	version, err := installed()
	if err != nil {
		return err
	}
	lib := filepath.Join("/usr/lib/postgresql", version)
	img := programs.Image{
		Programs:   []string{"busybox", filepath.Join(lib, "lib/plpgsql.so"), filepath.Join(lib, "lib/dict_snowball.so"), filepath.Join(lib, "lib/libpqwalreceiver.so")},
		Trees:      []string{filepath.Join("/usr/share/postgresql", version)},
		Applets:    []string{"sh", "rm", "mv", "sleep", "sync", "cat", "date", "seq"},
		Users:      map[string]int{"postgres": 999},
		Path:       filepath.Join(lib, "bin") + ":/usr/bin",
		Entrypoint: []string{"postgres"},
		StopSignal: "SIGINT", // ends sessions at once, and the server cleanly
	}
	for _, p := range []string{"postgres", "initdb", "pg_basebackup", "pg_isready", "psql"} {
		img.Programs = append(img.Programs, filepath.Join(lib, "bin", p))
	}
	return programs.Archive(path, map[string]programs.Image{
		"example.local/postgresql:1": img.With("srv/version", "1\n"),
		"example.local/postgresql:2": img.With("srv/version", "2\n"),
	}, Programs)
}

// installed is the newest major version that this machine has.
func installed() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	var versions []string
	for _, f := range found {
		versions = append(versions, filepath.Base(filepath.Dir(filepath.Dir(f))))
	}
	if len(versions) == 0 {
		return "", fmt.Errorf("postgres is not installed: apt-get install %s", Programs["postgres"])
	}
	return slices.MaxFunc(versions, func(a, b string) int {
		x, _ := strconv.Atoi(a)
		y, _ := strconv.Atoi(b)
		return cmp.Compare(x, y)
	}), nil
}
