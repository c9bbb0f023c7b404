package logs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const sample = `2026-11-21T08:00:00.000000001Z stdout F one
2026-11-21T08:00:01.5Z stderr F two
2026-11-21T08:00:02Z stdout P thr
2026-11-21T08:00:03Z stderr F between
2026-11-21T08:00:04Z stdout F ee
not a log line
2026-11-21T08:00:05Z stdout F 
2026-11-21T08:00:06Z stdout F last
2026-11-21T08:00:07Z stdout F not whole`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func i64(n int64) *int64 { return &n }

func TestRead(t *testing.T) {
	path := write(t, sample)
	for name, c := range map[string]struct {
		opts Options
		want string
	}{
		"all":           {Options{}, "one\ntwo\nthrbetween\nee\n\nlast\n"},
		"stdout":        {Options{Stream: "stdout"}, "one\nthree\n\nlast\n"},
		"stderr":        {Options{Stream: "stderr"}, "two\nbetween\n"},
		"tail 0":        {Options{Tail: i64(0)}, ""},
		"tail 2":        {Options{Tail: i64(2)}, "\nlast\n"},
		"tail parts":    {Options{Tail: i64(3), Stream: "stdout"}, "three\n\nlast\n"},
		"tail too many": {Options{Tail: i64(100), Stream: "stderr"}, "two\nbetween\n"},
		"since":         {Options{Since: time.Date(2026, 11, 21, 8, 0, 5, 0, time.UTC)}, "\nlast\n"},
		"since a part":  {Options{Since: time.Date(2026, 11, 21, 8, 0, 3, 0, time.UTC), Stream: "stdout"}, "\nlast\n"},
		"limit":         {Options{Limit: i64(6)}, "one\ntw"},
		"limit at end":  {Options{Limit: i64(4)}, "one\n"},
		"timestamps":    {Options{Timestamps: true, Stream: "stdout", Tail: i64(3)}, "2026-11-21T08:00:02Z three\n2026-11-21T08:00:05Z \n2026-11-21T08:00:06Z last\n"},
	} {
		var out bytes.Buffer
		if err := Read(t.Context(), path, c.opts, &out, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out.String() != c.want {
			t.Errorf("%s: got %q, want %q", name, out.String(), c.want)
		}
	}
	if err := Read(t.Context(), filepath.Join(t.TempDir(), "none"), Options{}, io.Discard, nil); !os.IsNotExist(err) && !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a missing file: %v", err)
	}
}

// The last n lines are those of reading everything and cutting.
func TestTailOfALongLog(t *testing.T) {
	var b strings.Builder
	var all []string
	for n := range 5000 {
		text := fmt.Sprintf("%d %s", n, strings.Repeat("x", n%97))
		all = append(all, text+"\n")
		if n%5 == 0 {
			fmt.Fprintf(&b, "2026-11-21T08:00:00Z stdout P %s\n", text[:1])
			text = text[1:]
		}
		fmt.Fprintf(&b, "2026-11-21T08:00:00Z stdout F %s\n", text)
	}
	path := write(t, b.String())
	for _, n := range []int{1, 2, 5, 6, 999, 4999, 5000, 6000} {
		var out bytes.Buffer
		if err := Read(t.Context(), path, Options{Tail: i64(int64(n))}, &out, nil); err != nil {
			t.Fatal(err)
		}
		if want := strings.Join(all[max(0, len(all)-n):], ""); out.String() != want {
			t.Errorf("tail %d: got %d bytes, want %d", n, out.Len(), len(want))
		}
	}
}

// lines hands over what is written to it.
type lines chan string

func (l lines) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }

func TestFollowGoesOnThroughRotationAndStopsWithTheContainer(t *testing.T) {
	path := write(t, "2026-11-21T08:00:00Z stdout F one\n")
	ended := make(chan struct{})
	out := make(lines)
	done := make(chan error, 1)
	go func() { done <- Read(context.Background(), path, Options{Follow: true, Ended: ended}, out, nil) }()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-out:
			if got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		case err := <-done:
			t.Fatalf("ended (%v) before %q", err, want)
		}
	}
	appendTo := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	expect("one\n")
	appendTo("2026-11-21T08:00:01Z stdout F tw")
	appendTo("o\n")
	expect("two\n")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	appendTo("2026-11-21T08:00:02Z stdout F three\n")
	expect("three\n")
	appendTo("2026-11-21T08:00:03Z stdout F four\n")
	expect("four\n")
	close(ended)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollowStopsWithItsReader(t *testing.T) {
	path := write(t, "2026-11-21T08:00:00Z stdout F one\n")
	ctx, cancel := context.WithCancel(t.Context())
	out := make(lines)
	done := make(chan error, 1)
	go func() { done <- Read(ctx, path, Options{Follow: true}, out, nil) }()
	<-out
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, l := range strings.SplitAfter(sample, "\n") {
		f.Add([]byte(l))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, ok := parse(line)
		if ok && e.stream != "stdout" && e.stream != "stderr" {
			t.Errorf("stream %q", e.stream)
		}
	})
}
