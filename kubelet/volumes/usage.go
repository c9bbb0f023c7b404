package volumes

import (
	"io/fs"
	"path/filepath"
	"syscall"
)

// Usage measures what is stored below a folder, in bytes on disk and inodes,
// without leaving its file system. A file with several links counts once; what
// vanishes meanwhile counts as far as it was seen.
func Usage(dir string) (bytes, inodes int64) {
	var dev uint64
	links := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return nil
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		switch {
		case !ok:
			return nil
		case path == dir:
			dev = uint64(st.Dev)
		case uint64(st.Dev) != dev && d.IsDir():
			return filepath.SkipDir
		}
		if st.Nlink > 1 && !d.IsDir() {
			if links[st.Ino] {
				return nil
			}
			links[st.Ino] = true
		}
		bytes += st.Blocks * 512
		inodes++
		return nil
	})
	return bytes, inodes
}
