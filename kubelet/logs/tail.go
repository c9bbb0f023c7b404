package logs

import (
	"bytes"
	"io"
	"os"
)

// seekTail places f where the last n lines of the container begin. A line
// that the runtime cut into parts counts once.
func seekTail(f *os.File, n int64, stream string) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n <= 0 {
		return err
	}
	b := backward{f: f, at: end}
	// Going back, an entry that is full ends one line and so begins the count
	// of another; parts before it belong to it.
	var seen int64
	start := end
	for {
		line, at, err := b.prev()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		e, ok := parse(line)
		if !ok || (stream != "" && e.stream != stream) {
			continue
		}
		if !e.partial || seen == 0 {
			if seen == n {
				break
			}
			seen++
		}
		start = at
	}
	_, err = f.Seek(start, io.SeekStart)
	return err
}

// backward yields a file's lines from its end.
type backward struct {
	f    io.ReaderAt
	at   int64  // everything from here on is in data or was given out
	data []byte // read and not given out yet
}

// prev returns the line before the last returned and its offset. What stands
// after the last newline is no line yet and is skipped.
func (b *backward) prev() (line []byte, offset int64, err error) {
	// b.data ends with the newline of the line that is wanted.
	if i := bytes.LastIndexByte(b.data, '\n'); i >= 0 {
		b.data = b.data[:i+1]
	}
	for {
		if n := len(b.data); n > 0 && b.data[n-1] == '\n' {
			if i := bytes.LastIndexByte(b.data[:n-1], '\n'); i >= 0 {
				line, b.data = b.data[i+1:], b.data[:i+1]
				return line, b.at + int64(i) + 1, nil
			}
			if b.at == 0 {
				line, b.data = b.data, nil
				return line, 0, nil
			}
		}
		if b.at == 0 {
			return nil, 0, io.EOF
		}
		size := min(b.at, 32<<10)
		more := make([]byte, size, size+int64(len(b.data)))
		if _, err := b.f.ReadAt(more, b.at-size); err != nil && err != io.EOF {
			return nil, 0, err
		}
		b.at -= size
		b.data = append(more, b.data...)
		if i := bytes.LastIndexByte(b.data, '\n'); i >= 0 {
			b.data = b.data[:i+1]
		}
	}
}
