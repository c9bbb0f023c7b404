// Package bootstrap looks after bootstrap tokens: it deletes them when they
// expire, and signs with them the cluster-info that a joining node reads.
package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	secretType      = corev1.SecretType("bootstrap.kubernetes.io/token")
	secretPrefix    = "bootstrap-token-"
	tokenNamespace  = "kube-system"
	infoNamespace   = "kube-public"
	infoName        = "cluster-info"
	infoKey         = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

func isToken(s *corev1.Secret) bool {
	return s.Namespace == tokenNamespace && s.Type == secretType
}

// expiry is when a token expires; ok is false for one that never does. A time
// that does not parse has passed: a token must not outlive a typing error.
func expiry(s *corev1.Secret) (at time.Time, ok bool) {
	text := string(s.Data["expiration"])
	if text == "" {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, true
	}
	return at, true
}

// signingToken returns a token's parts if it may sign the cluster-info now.
func signingToken(s *corev1.Secret, now time.Time) (id, secret string, ok bool) {
	id, secret = string(s.Data["token-id"]), string(s.Data["token-secret"])
	if !isToken(s) || id == "" || secret == "" || s.Name != secretPrefix+id || s.DeletionTimestamp != nil {
		return "", "", false
	}
	if at, expires := expiry(s); expires && !at.After(now) {
		return "", "", false
	}
	return id, secret, string(s.Data["usage-bootstrap-signing"]) == "true"
}

// signed returns the cluster-info with the signatures that these tokens (by
// id) make and no other, or nil when it has exactly those.
func signed(info *corev1.ConfigMap, tokens map[string]string) (*corev1.ConfigMap, error) {
	content, ok := info.Data[infoKey]
	if !ok {
		return nil, nil
	}
	data := map[string]string{}
	for k, v := range info.Data {
		if !strings.HasPrefix(k, signaturePrefix) {
			data[k] = v
		}
	}
	for id, secret := range tokens {
		sig, err := sign(content, id, secret)
		if err != nil {
			return nil, fmt.Errorf("signing cluster-info with token %s: %w", id, err)
		}
		data[signaturePrefix+id] = sig
	}
	if maps.Equal(data, info.Data) {
		return nil, nil
	}
	out := info.DeepCopy()
	out.Data = data
	return out, nil
}

// sign returns the detached JWS (RFC 7515, appendix F) of content: HS256 with
// the token's secret, its id as the key's. It is made by hand because JOSE
// libraries refuse keys as short as a token's secret.
func sign(content, id, secret string) (string, error) {
	header, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
	}{"HS256", id})
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	protected := enc.EncodeToString(header)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(protected + "." + enc.EncodeToString([]byte(content))))
	return protected + ".." + enc.EncodeToString(mac.Sum(nil)), nil
}
