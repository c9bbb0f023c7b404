package store

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// continueToken is what upstream puts into a list's continue field, so that a
// client may go on at another server.
type continueToken struct {
	APIVersion      string `json:"v"`
	ResourceVersion int64  `json:"rv"`
	StartKey        string `json:"start"`
}

const continueVersion = "meta.k8s.io/v1"

// encodeContinue makes a token that goes on at start (relative to the list's
// prefix); revision -1 gives up consistency.
func encodeContinue(start string, revision int64) (string, error) {
	out, err := json.Marshal(continueToken{continueVersion, revision, start})
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(out), nil
}

// decodeContinue returns where a token goes on; revision is -1 when it is
// inconsistent.
func decodeContinue(token string) (start string, revision int64, err error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", 0, fmt.Errorf("continue key is not valid: %w", err)
	}
	var t continueToken
	if err := json.Unmarshal(data, &t); err != nil {
		return "", 0, fmt.Errorf("continue key is not valid: %w", err)
	}
	if t.APIVersion != continueVersion {
		return "", 0, fmt.Errorf("continue key is not valid: server does not recognize this encoded version %s", t.APIVersion)
	}
	if t.ResourceVersion == 0 {
		return "", 0, errors.New("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	}
	if t.StartKey == "" {
		return "", 0, errors.New("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
	}
	// A token of a stranger must not lead out of the prefix.
	key := t.StartKey
	if !strings.HasPrefix(key, "/") {
		key = "/" + key
	}
	if cleaned := path.Clean(key); cleaned != key {
		return "", 0, fmt.Errorf("continue key is not valid: %s", t.StartKey)
	}
	return key[1:], t.ResourceVersion, nil
}

// listPlan is a list request understood.
type listPlan struct {
	// at is the exact revision to list; 0 for none.
	at int64
	// atLeast is the revision that the state must have reached; 0 is any
	// state, -1 the newest.
	atLeast int64
	// start is the first key, relative to the list's prefix.
	start string
	limit int64
	// paging says that the list goes on from a token.
	paging bool
}

// planList applies the rules of the API documentation ("Resource versions",
// the table for list).
func planList(o ListOptions) (listPlan, error) {
	p := listPlan{limit: o.Limit}
	if o.Continue != "" {
		start, rev, err := decodeContinue(o.Continue)
		if err != nil {
			return p, apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
		}
		switch o.ResourceVersion {
		case "", "0":
		default:
			return p, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		p.start, p.paging = start, true
		if rev > 0 {
			p.at = rev
		} else {
			p.atLeast = -1
		}
		return p, nil
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return p, apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	switch {
	case o.ResourceVersion == "":
		p.atLeast = -1
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchExact:
		p.at = rev
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchNotOlderThan:
		p.atLeast = rev
	case rev > 0 && o.Limit > 0:
		p.at = rev // the older rule: a limit makes it exact
	default:
		p.atLeast = rev
	}
	if rev == 0 && o.ResourceVersion == "0" {
		p.limit = 0 // as upstream: what is at hand comes whole
	}
	return p, nil
}

// parseRevision reads a resourceVersion of a request. Its error is no API
// status: lists make it a 400, while gets and watches are known to fail with a
// plain 500.
func parseRevision(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, field.Invalid(field.NewPath("resourceVersion"), s, err.Error())
	}
	return int64(n), nil
}
