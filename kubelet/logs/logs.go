// Package logs reads container logs as the container runtime writes them: a
// file in the CRI format goes in, what the container wrote comes out.
//
// A line of the format is "TIME STREAM TAGS TEXT", where the tag P says that
// the container's line goes on in the file's next line of that stream, and F
// that it ends here (https://github.com/kubernetes/design-proposals-archive,
// kubelet-cri-logging).
package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options select what is read; the zero value is the whole log.
type Options struct {
	// Follow waits for more until Ended says that none will come.
	Follow bool
	// Ended is closed when the container has ended; only Follow needs it.
	Ended <-chan struct{}
	// Since leaves out what is older, where set.
	Since time.Time
	// Tail keeps only that many of the last lines; nil keeps all.
	Tail *int64
	// Limit ends the output after that many bytes; nil does not.
	Limit *int64
	// Timestamps puts each line's time before it.
	Timestamps bool
	// Stream is "stdout" or "stderr", "" for both.
	Stream string
}

// errLimit ends reading at the byte limit.
var errLimit = errors.New("limit reached")

// Read copies what opts select of the log at path to w, and calls flush (if
// not nil) whenever there is nothing more for now. It returns nil at the end
// of the log, at the limit, and when a followed container has ended.
func Read(ctx context.Context, path string, opts Options, w io.Writer, flush func()) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer func() { f.Close() }()
	var watch *watcher
	if opts.Follow {
		// Before the first read, so that nothing is missed after it.
		if watch, err = newWatcher(path); err != nil {
			return err
		}
		defer watch.close()
	}
	if opts.Tail != nil {
		if err := seekTail(f, *opts.Tail, opts.Stream); err != nil {
			return fmt.Errorf("find the log's last lines: %w", err)
		}
	}
	out := &printer{w: w, opts: opts, left: -1}
	if opts.Limit != nil {
		out.left = *opts.Limit
	}
	if flush == nil {
		flush = func() {}
	}
	var lines splitter
	ended := false
	for {
		err := lines.drain(f, out.line)
		if errors.Is(err, errLimit) {
			flush()
			return nil
		}
		if err != nil {
			return err
		}
		flush()
		if !opts.Follow || ended {
			return nil
		}
		// A log that was rotated goes on in a new file, once the old one,
		// which nobody writes to any more, is read.
		next, err := rotated(f, path)
		if err != nil {
			return err
		}
		if next != nil {
			if err := lines.drain(f, out.line); err != nil {
				next.Close()
				return ignoreLimit(err)
			}
			f.Close()
			f, lines = next, splitter{}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-opts.Ended:
			ended = true // one last look
		case err := <-watch.changed:
			if err != nil {
				return err
			}
		}
	}
}

func ignoreLimit(err error) error {
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// rotated opens the file that has taken the log's place, or returns nil.
func rotated(f *os.File, path string) (*os.File, error) {
	now, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // between rename and reopening, or removed
	}
	if err != nil {
		return nil, err
	}
	old, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if os.SameFile(now, old) {
		return nil, nil
	}
	return os.Open(path)
}

// splitter cuts a growing file into its whole lines.
type splitter struct {
	buf  []byte
	rest []byte // begins a line whose end is not written yet
}

func (s *splitter) drain(r io.Reader, line func([]byte) error) error {
	if s.buf == nil {
		s.buf = make([]byte, 64<<10)
	}
	for {
		n, err := r.Read(s.buf)
		data := s.buf[:n]
		for {
			i := bytes.IndexByte(data, '\n')
			if i < 0 {
				break
			}
			l := data[:i+1]
			if len(s.rest) > 0 {
				l = append(s.rest, l...)
				s.rest = s.rest[:0]
			}
			if err := line(l); err != nil {
				return err
			}
			data = data[i+1:]
		}
		s.rest = append(s.rest, data...)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
	}
}

// entry is one line of the file.
type entry struct {
	time    []byte
	stream  string
	partial bool
	text    []byte // with its newline unless partial
}

// parse takes a line with its newline apart; ok is false for what is none of
// the format.
func parse(line []byte) (e entry, ok bool) {
	t, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return e, false
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return e, false
	}
	switch string(stream) {
	case "stdout":
		e.stream = "stdout"
	case "stderr":
		e.stream = "stderr"
	default:
		return e, false
	}
	tags, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		// A line without text may end after its tags.
		tags, text = bytes.TrimSuffix(rest, []byte{'\n'}), []byte{'\n'}
	}
	first, _, _ := bytes.Cut(tags, []byte{':'})
	e.partial = string(first) == "P"
	if !e.partial && string(first) != "F" {
		return e, false
	}
	e.time, e.text = t, text
	if e.partial {
		e.text = bytes.TrimSuffix(text, []byte{'\n'})
	}
	return e, true
}

// printer writes entries as the options want them.
type printer struct {
	w    io.Writer
	opts Options
	left int64 // bytes until the limit; negative for none
	// inside says of each stream that a line of it has begun and not ended.
	inside map[string]bool
	// kept is what was decided for a line that has begun.
	kept map[string]bool
}

func (p *printer) line(raw []byte) error {
	e, ok := parse(raw)
	if !ok || (p.opts.Stream != "" && e.stream != p.opts.Stream) {
		return nil
	}
	if p.inside == nil {
		p.inside, p.kept = map[string]bool{}, map[string]bool{}
	}
	begins := !p.inside[e.stream]
	p.inside[e.stream] = e.partial
	if begins {
		p.kept[e.stream] = p.opts.Since.IsZero() || !before(e.time, p.opts.Since)
	}
	if !p.kept[e.stream] {
		return nil
	}
	if begins && p.opts.Timestamps {
		if err := p.write(append(append([]byte(nil), e.time...), ' ')); err != nil {
			return err
		}
	}
	return p.write(e.text)
}

func before(stamp []byte, since time.Time) bool {
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	return err == nil && t.Before(since)
}

func (p *printer) write(b []byte) error {
	if p.left >= 0 && int64(len(b)) > p.left {
		b = b[:p.left]
	}
	if _, err := p.w.Write(b); err != nil {
		return err
	}
	if p.left >= 0 {
		if p.left -= int64(len(b)); p.left == 0 {
			return errLimit
		}
	}
	return nil
}
