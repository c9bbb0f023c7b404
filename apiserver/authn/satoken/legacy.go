package satoken

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// legacyIssuer is who the tokens in secrets say has made them, in every
// cluster.
const legacyIssuer = "kubernetes/serviceaccount"

// Legacy is the payload of a token in a secret of the type
// kubernetes.io/service-account-token. It is for the API server and ends with
// its secret.
type Legacy struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Namespace string `json:"kubernetes.io/serviceaccount/namespace"`
	Secret    string `json:"kubernetes.io/serviceaccount/secret.name"`
	Account   string `json:"kubernetes.io/serviceaccount/service-account.name"`
	UID       string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// SignLegacy returns the token of a secret; issuer and subject are filled in.
func (i *Issuer) SignLegacy(l Legacy) (string, error) {
	l.Issuer = legacyIssuer
	l.Subject = "system:serviceaccount:" + l.Namespace + ":" + l.Account
	payload, err := json.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	jws, err := i.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign service-account token: %w", err)
	}
	return jws.CompactSerialize()
}

// VerifyLegacy checks a token's signature and returns its claims; ErrForeign
// says that it is of another kind. The errors never quote the token.
func (i *Issuer) VerifyLegacy(token string) (*Legacy, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, ErrForeign
	}
	var l Legacy
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &l) != nil || l.Issuer != legacyIssuer {
		return nil, ErrForeign
	}
	if payload, err = i.verified(token); err != nil {
		return nil, err
	}
	l = Legacy{}
	if err := json.Unmarshal(payload, &l); err != nil {
		return nil, errors.New("malformed claims in service-account token")
	}
	return &l, nil
}

// Check says what the claims lack, in upstream's words.
func (l *Legacy) Check() error {
	switch {
	case l.Subject == "":
		return errors.New("sub claim is missing")
	case l.Namespace == "":
		return errors.New("namespace claim is missing")
	case l.Secret == "":
		return errors.New("secretName claim is missing")
	case l.Account == "":
		return errors.New("serviceAccountName claim is missing")
	case l.UID == "":
		return errors.New("serviceAccountUID claim is missing")
	case l.Subject != "system:serviceaccount:"+l.Namespace+":"+l.Account:
		return errors.New("sub claim is invalid")
	}
	return nil
}
