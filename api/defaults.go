package api

// DefaultValue sets *p to v if it is the zero value.
func DefaultValue[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// DefaultPtr points *p at a copy of v if it is nil.
func DefaultPtr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}
