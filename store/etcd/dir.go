package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// prepareDir makes the data directory or checks that what is there is etcd's,
// and locks it. The lock is on the directory itself, so no foreign file lies
// in it, and ends with the process however that ends.
func prepareDir(dir string) (*os.File, error) {
	if dir == "" {
		return nil, errors.New("etcd: no data directory given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make etcd data directory: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open etcd data directory: %w", err)
	}
	ok := false
	defer func() {
		if !ok {
			f.Close()
		}
	}()
	if st, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("etcd data directory: %w", err)
	} else if !st.IsDir() {
		return nil, fmt.Errorf("etcd data directory %s is not a directory: choose another one", dir)
	}
	if err := lockFile(f); err != nil {
		return nil, inUse(dir, err)
	}
	if err := checkContent(dir); err != nil {
		return nil, err
	}
	if err := f.Chmod(0o700); err != nil {
		return nil, fmt.Errorf("etcd data directory must be its owner's alone: %w", err)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("etcd data directory %s is not writable: %w", dir, err)
	}
	ok = true
	return f, nil
}

// checkContent refuses a directory that holds something else than etcd's
// data, and data that another etcd has open.
func checkContent(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read etcd data directory: %w", err)
	}
	if len(names) == 0 {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "member")); err != nil {
		return fmt.Errorf("%s is not empty and holds no etcd data (found %q): choose an empty or a cox data directory", dir, names[0].Name())
	}
	path := filepath.Join(dir, "member", "snap", "db")
	db, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // killed at its first start
	}
	if err != nil {
		return fmt.Errorf("open etcd database: %w", err)
	}
	defer db.Close()
	// bbolt would wait for ever for this lock.
	if err := lockFile(db); err != nil {
		return inUse(dir, err)
	}
	return nil
}

func lockFile(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

func inUse(dir string, err error) error {
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("etcd data in %s is in use by another process: stop it, or choose another data directory", dir)
	}
	return fmt.Errorf("lock etcd data in %s: %w", dir, err)
}
