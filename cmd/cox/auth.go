package main

import (
	"context"
	"time"

	"github.com/spf13/pflag"

	"github.com/coxswain/cox/apiserver/encryption"
)

// authConfig is what the API server is told about who may do what, and how
// that is kept and recorded. The flags have upstream's names.
type authConfig struct {
	EncryptionConfig string
	EncryptionReload bool
}

func (a *authConfig) flags(fs *pflag.FlagSet) {
	fs.StringVar(&a.EncryptionConfig, "encryption-provider-config", "", "which objects are encrypted at rest and how (apiserver.config.k8s.io/v1 EncryptionConfiguration)")
	fs.BoolVar(&a.EncryptionReload, "encryption-provider-config-automatic-reload", false, "take over changes of --encryption-provider-config while running")
}

// openEncryption reads how objects are encrypted at rest; nil when they are
// not.
func (cp *controlPlane) openEncryption(ctx context.Context) (*encryption.Encryption, error) {
	a := &cp.cfg.auth
	if a.EncryptionConfig == "" {
		return nil, nil
	}
	return encryption.Open(ctx, encryption.Config{
		Path: a.EncryptionConfig, Reload: a.EncryptionReload, Now: time.Now, Log: cp.log.With("component", "encryption"),
	})
}
