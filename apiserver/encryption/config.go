package encryption

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/apiserver"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"
	"sigs.k8s.io/yaml"
)

// What values begin with, as upstream writes them; the name of the key or
// plugin and a colon follow.
const (
	prefixAESCBC    = "k8s:enc:aescbc:v1:"
	prefixAESGCM    = "k8s:enc:aesgcm:v1:"
	prefixSecretbox = "k8s:enc:secretbox:v1:"
	prefixKMS       = "k8s:enc:kms:v2:"
)

// plain stores values as they are, and refuses to read encrypted ones.
func plain() value.Transformer { return identity.NewEncryptCheckTransformer() }

// parse makes a set of a configuration file's contents. The error never holds
// a key.
func parse(data []byte, cfg *Config) (*set, error) {
	var in configv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		// The text of a JSON error can quote what it met, which may be a key.
		return nil, errors.New("is not a valid EncryptionConfiguration: it has a syntax error or fields that are unknown or of another type")
	}
	if gvk := in.GroupVersionKind(); gvk != (schema.GroupVersionKind{Group: "apiserver.config.k8s.io", Version: "v1", Kind: "EncryptionConfiguration"}) {
		return nil, fmt.Errorf("is %s %s, want apiserver.config.k8s.io/v1 EncryptionConfiguration", in.APIVersion, in.Kind)
	}
	for i := range in.Resources {
		for j := range in.Resources[i].Providers {
			if k := in.Resources[i].Providers[j].KMS; k != nil {
				configv1.SetDefaults_KMSConfiguration(k)
			}
		}
	}
	var checked apiserver.EncryptionConfiguration
	if err := configv1.Convert_v1_EncryptionConfiguration_To_apiserver_EncryptionConfiguration(&in, &checked, nil); err != nil {
		return nil, err
	}
	if errs := validation.ValidateEncryptionConfiguration(&checked, cfg.Reload); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	s := &set{sum: sha256.Sum256(data), cancel: func() {}}
	for i, r := range checked.Resources {
		var chain []value.PrefixTransformer
		for j := range r.Providers {
			t, err := s.provider(&r.Providers[j], cfg)
			if err != nil {
				s.close()
				return nil, fmt.Errorf("resources[%d].providers[%d]: %w", i, j, err)
			}
			chain = append(chain, t)
		}
		s.rules = append(s.rules, rule{r.Resources, value.NewPrefixTransformers(
			errors.New("no matching prefix found"), chain...)})
	}
	return s, nil
}

func (s *set) provider(p *apiserver.ProviderConfiguration, cfg *Config) (value.PrefixTransformer, error) {
	switch {
	case p.AESGCM != nil:
		return keys(prefixAESGCM, p.AESGCM.Keys, func(k []byte) (value.Transformer, error) {
			return ofBlock(k, aestransformer.NewGCMTransformer)
		})
	case p.AESCBC != nil:
		return keys(prefixAESCBC, p.AESCBC.Keys, func(k []byte) (value.Transformer, error) {
			return ofBlock(k, func(b cipher.Block) (value.Transformer, error) { return aestransformer.NewCBCTransformer(b), nil })
		})
	case p.Secretbox != nil:
		return keys(prefixSecretbox, p.Secretbox.Keys, func(k []byte) (value.Transformer, error) {
			if len(k) != 32 {
				return nil, fmt.Errorf("has %d bytes, want 32", len(k))
			}
			return secretbox.NewSecretboxTransformer([32]byte(k)), nil
		})
	case p.KMS != nil:
		if p.KMS.APIVersion != "v2" {
			return value.PrefixTransformer{}, fmt.Errorf("KMS plugins of %s are no longer supported, use apiVersion: v2", p.KMS.APIVersion)
		}
		plugin, err := newPlugin(p.KMS, cfg)
		if err != nil {
			return value.PrefixTransformer{}, err
		}
		s.plugins = append(s.plugins, plugin)
		return value.PrefixTransformer{Prefix: []byte(prefixKMS + p.KMS.Name + ":"), Transformer: plugin}, nil
	}
	return value.PrefixTransformer{Transformer: plain()}, nil
}

func ofBlock(key []byte, mode func(cipher.Block) (value.Transformer, error)) (value.Transformer, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return mode(b)
}

// keys is a provider with several keys: the first writes, all read.
func keys(prefix string, list []apiserver.Key, with func(key []byte) (value.Transformer, error)) (value.PrefixTransformer, error) {
	var chain []value.PrefixTransformer
	for _, k := range list {
		raw, err := base64.StdEncoding.DecodeString(k.Secret)
		if err != nil {
			return value.PrefixTransformer{}, fmt.Errorf("key %q: its secret is not base64", k.Name)
		}
		t, err := with(raw)
		if err != nil {
			return value.PrefixTransformer{}, fmt.Errorf("key %q: %w", k.Name, err)
		}
		chain = append(chain, value.PrefixTransformer{Prefix: []byte(k.Name + ":"), Transformer: t})
	}
	return value.PrefixTransformer{
		Prefix: []byte(prefix), Transformer: value.NewPrefixTransformers(fmt.Errorf("no matching key was found for the provided %s transformer", prefix), chain...),
	}, nil
}
