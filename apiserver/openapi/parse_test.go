package openapi

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	const good = `"info":{"title":"t","version":"1"},"paths":{}}`
	if _, err := ParseV2([]byte(`{"swagger":"2.0",` + good)); err != nil {
		t.Error(err)
	}
	if _, err := ParseV3([]byte(`{"openapi":"3.0.0",` + good)); err != nil {
		t.Error(err)
	}
	if _, err := ParseV3([]byte(`[`)); err == nil {
		t.Error("no document is read")
	}
	if doc, err := parse(func([]byte) (*int, error) { panic(errors.New("surprised")) }, nil); doc != nil || err == nil {
		t.Errorf("a panic of the library gives %v, %v", doc, err)
	}
}
