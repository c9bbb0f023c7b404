package encryption

import (
	"strings"
	"testing"
)

// FuzzConfig: a configuration is refused, without repeating it, or encrypts.
func FuzzConfig(f *testing.F) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
	f.Add(head + "resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}}, {identity: {}}]}]")
	f.Add(head + "resources: [{resources: ['*.'], providers: [{secretbox: {keys: [{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}]}]")
	f.Add(head + "resources: [{resources: ['*.*'], providers: [{aesgcm: {keys: [{name: a, secret: x}]}}]}]")
	f.Add(head + "resources: []")
	f.Add("{")
	f.Fuzz(func(_ *testing.T, text string) {
		for _, word := range []string{"kms", "KMS"} { // which dials
			if strings.Contains(text, word) {
				return
			}
		}
		s, err := parse([]byte(text), &Config{})
		if err == nil {
			s.close()
		}
	})
}
