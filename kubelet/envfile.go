package kubelet

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/coxswain/cox/kubelet/volumes"
)

// maxEnvFile bounds an env file, in bytes.
const maxEnvFile = 64 << 10

// parseEnvFile reads an env file (KEP-3721): lines of NAME='value', where the
// value is taken as it is and may hold line ends; lines that begin with # and
// empty ones do not count. Whatever else a shell would understand is an error.
func parseEnvFile(text string) (map[string]string, error) {
	out := map[string]string{}
	for n := 1; text != ""; {
		line, rest, _ := strings.Cut(text, "\n")
		if t := strings.TrimSpace(line); t == "" || t[0] == '#' {
			text, n = rest, n+1
			continue
		}
		name, after, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); !ok || len(validation.IsEnvVarName(name)) > 0 {
			return nil, fmt.Errorf("line %d: want NAME='value'", n)
		}
		if after = strings.TrimLeft(after, " \t"); !strings.HasPrefix(after, "'") {
			return nil, fmt.Errorf("line %d: the value of %s must be in single quotes", n, name)
		}
		// The value may go on over many lines.
		value, tail, closed := strings.Cut(text[len(line)-len(after)+1:], "'")
		if !closed {
			return nil, fmt.Errorf("line %d: the value of %s has no closing quote", n, name)
		}
		n += strings.Count(value, "\n")
		end, rest, _ := strings.Cut(tail, "\n")
		if strings.TrimSpace(end) != "" {
			return nil, fmt.Errorf("line %d: unexpected text after the value of %s", n, name)
		}
		out[name], text, n = value, rest, n+1
	}
	return out, nil
}

// envFileReader reads keys of env files in a pod's volumes. ok is false for a
// file or key that does not exist.
func (k *Kubelet) envFileReader(pod *corev1.Pod) func(*corev1.FileKeySelector) (string, bool, error) {
	read := map[[2]string]map[string]string{} // each file once per container
	return func(sel *corev1.FileKeySelector) (string, bool, error) {
		at := [2]string{sel.VolumeName, sel.Path}
		vars, done := read[at]
		if !done {
			var err error
			if vars, err = k.envFile(pod, sel); err != nil {
				return "", false, fmt.Errorf("couldn't parse env file %q in volume %q: %w", sel.Path, sel.VolumeName, err)
			}
			read[at] = vars
		}
		v, ok := vars[sel.Key]
		return v, ok, nil
	}
}

func (k *Kubelet) envFile(pod *corev1.Pod, sel *corev1.FileKeySelector) (map[string]string, error) {
	dir, err := k.volumes.Path(pod, sel.VolumeName)
	if err != nil {
		return nil, err
	}
	f, err := volumes.OpenFile(dir, sel.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxEnvFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxEnvFile)
	}
	return parseEnvFile(string(b))
}
