package authn

import (
	"strings"
	"testing"
)

// FuzzStatic: a token file is refused or read.
func FuzzStatic(f *testing.F) {
	f.Add("tok,name,uid,\"a,b\"\n")
	f.Add("tok,name\n")
	f.Add("\"")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = readStatic(strings.NewReader(text), nil) })
}
