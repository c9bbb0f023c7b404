// Package wiretest makes the seeds of fuzz tests that take encoded messages.
package wiretest

import (
	"testing"

	"google.golang.org/protobuf/proto"
)

// Marshal encodes a message, which stays the caller's, and ends the test if
// that fails.
func Marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
