package pki

import (
	"fmt"
	"os"
)

// makeDir makes a folder for keys, mode 0700; one that others can look into
// is narrowed.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder for keys: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("narrow the mode of %s: %w", dir, err)
		}
	}
	return nil
}
