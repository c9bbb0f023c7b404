package filewatch

import (
	"io/fs"
	"syscall"
)

// inode tells a file from another of the same size and time.
func inode(st fs.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}
