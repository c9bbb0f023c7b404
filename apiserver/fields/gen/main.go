// Command gen compiles client-go's schema of the built-in kinds into the file
// that package fields embeds.
package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/coxswain/cox/apiserver/fields"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: gen FILE")
	}
	cm := &corev1.ConfigMap{}
	cm.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	typed, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(cm)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	if err := fields.Compile(typed.Schema(), z); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(os.Args[1], out.Bytes(), 0o644)
}
