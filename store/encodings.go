package store

import "sync"

// encodings is an entry's few encoded forms. Most entries are read in one or
// two formats, so a slice beats a map.
type encodings struct {
	mu   sync.Mutex
	list []encoding
}

type encoding struct {
	format Format
	bytes  []byte
}

func (c *encodings) get(f Format, encode func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.list {
		if e.format == f {
			return e.bytes, nil
		}
	}
	b, err := encode()
	if err != nil {
		return nil, err
	}
	c.list = append(c.list, encoding{f, b})
	return b, nil
}
