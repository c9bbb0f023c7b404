package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The texts below are upstream's: clients and users search for them.
const (
	textListExpired     = "The resourceVersion for the provided list is too old."
	textWatchExpired    = "The resourceVersion for the provided watch is too old."
	textContinueExpired = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list."
	textContinueGone = "The provided continue parameter is too old " +
		"to display a consistent list result. You must start a new list without " +
		"the continue parameter."
)

// nameOf is the object's name within a key.
func nameOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// asStatus turns an error of etcd's, or of a context, into what an API client
// is told.
func asStatus(err error, gr schema.GroupResource, verb string) error {
	if err == nil {
		return nil
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return apierrors.NewResourceExpired(textListExpired)
	case errors.Is(err, rpctypes.ErrNoSpace):
		e := apierrors.NewInternalError(fmt.Errorf("etcd's database has reached its quota: compact and defragment it, or raise the quota (%w)", err))
		return e
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		return apierrors.NewTooManyRequests(err.Error(), 1)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrNoLeader),
		errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost),
		errors.Is(err, rpctypes.ErrLeaderChanged), errors.Is(err, rpctypes.ErrStopped):
		return apierrors.NewServerTimeout(gr, verb, 2)
	}
	return apierrors.NewInternalError(err)
}

// tooLarge says that a revision asked for was not reached in time.
func tooLarge(want, have int64) error {
	e := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", want, have), 1)
	e.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return e
}

// tooOld says that the history after a revision is no longer at hand; oldest
// is the first revision after which it is.
func tooOld(want, oldest int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", want, oldest))
}

// continueExpired carries a token with which a client may go on without
// consistency.
func continueExpired(start string) error {
	token, err := encodeContinue(start, -1)
	if err != nil {
		return apierrors.NewResourceExpired(textContinueGone)
	}
	e := apierrors.NewResourceExpired(textContinueExpired)
	e.ErrStatus.ListMeta.Continue = token
	return e
}

// precondition is the conflict that a failed precondition of a delete makes.
func precondition(gr schema.GroupResource, fullKey, text string) error {
	return apierrors.NewConflict(gr, nameOf(fullKey), fmt.Errorf(
		"StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: %s", fullKey, text))
}
