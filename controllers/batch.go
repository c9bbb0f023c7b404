package controllers

import "sync"

// SlowStart calls do for 0 to n-1 in batches of 1, 2, 4 and so on, each batch
// in parallel, and stops after the first batch with an error: a set whose
// pods are all refused costs one request per try and not n. It returns how
// many calls succeeded and the first error.
func SlowStart(n int, do func(i int) error) (int, error) {
	done := 0
	for next, batch := 0, 1; next < n; batch *= 2 {
		batch = min(batch, n-next)
		errs := make([]error, batch)
		if batch == 1 {
			errs[0] = do(next)
		} else {
			// At most parallel at a time: the API server orders the writes
			// anyway, more goroutines would only wait in it.
			var wg sync.WaitGroup
			slots := make(chan struct{}, parallel)
			for i := range batch {
				slots <- struct{}{}
				wg.Go(func() {
					errs[i] = do(next + i)
					<-slots
				})
			}
			wg.Wait()
		}
		var first error
		for _, err := range errs {
			if err == nil {
				done++
			} else if first == nil {
				first = err
			}
		}
		if first != nil {
			return done, first
		}
		next += batch
	}
	return done, nil
}

// parallel bounds the requests of one batch that are under way.
const parallel = 64

// Each calls do for 0 to n-1 in parallel and returns the first error by
// index.
func Each(n int, do func(i int) error) error {
	errs := make([]error, n)
	if n == 1 {
		return do(0)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = do(i)
			<-slots
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
