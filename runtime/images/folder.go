package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
)

// seen is one archive as it was when it was imported.
type seen struct {
	Size     int64 `json:"size"`
	Modified int64 `json:"modified"` // nanoseconds
	// Images are the names of what was in it.
	Images []string `json:"images"`
}

// ImportFolder imports the archives (*.tar, *.tar.gz, *.tgz, *.tar.zst) of a
// folder, in the order of their names. What was imported is noted in the file
// done, so that an archive is read again only when it has changed or an image
// of it is gone, as when room was made. It goes on after an archive that cannot
// be imported, and tries that one again the next time. A folder that does not
// exist holds none. It returns the names of the images that were imported.
func ImportFolder(ctx context.Context, conn *grpc.ClientConn, folder, done string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("folder of image archives: %w", err)
	}
	before, after := map[string]seen{}, map[string]seen{}
	if raw, err := os.ReadFile(done); err == nil {
		_ = json.Unmarshal(raw, &before) // a damaged note only means to read again
	}
	list, err := List(ctx, conn)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, i := range list {
		for _, n := range i.Names {
			there[n] = true
		}
	}
	gone := func(n string) bool { return !there[n] }
	var names []string
	var problems []error
	for _, e := range entries {
		if !isArchive(e.Name()) {
			continue
		}
		path := filepath.Join(folder, e.Name())
		st, err := os.Stat(path)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		is, was := seen{Size: st.Size(), Modified: st.ModTime().UnixNano()}, before[e.Name()]
		if is.Images = was.Images; is.Size != was.Size || is.Modified != was.Modified || slices.ContainsFunc(was.Images, gone) {
			if is.Images, err = importFile(ctx, conn, path); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", path, err))
				continue
			}
			names = append(names, is.Images...)
		}
		after[e.Name()] = is
	}
	if len(after) > 0 || len(before) > 0 {
		raw, err := json.Marshal(after)
		if err == nil {
			err = os.WriteFile(done, raw, 0o600)
		}
		problems = append(problems, err)
	}
	return names, errors.Join(problems...)
}

func isArchive(name string) bool {
	return slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz", ".tar.zst"}, func(s string) bool { return strings.HasSuffix(name, s) })
}

func importFile(ctx context.Context, conn *grpc.ClientConn, path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Import(ctx, conn, f, "")
}
