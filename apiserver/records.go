package apiserver

import (
	"context"
	"errors"

	"skiff/store"
)

// Agree is how the servers of one cluster agree on what must be the same for all of them: the first to come notes its own,
// and every other reads what is noted. It returns what is noted under name: value, if nothing was, or nil, if value is nil too.
func Agree(ctx context.Context, s store.Store, name string, value []byte) ([]byte, error) {
	for {
		noted, err := s.Get(ctx, records+name)
		if !errors.Is(err, store.ErrNotFound) || value == nil {
			if errors.Is(err, store.ErrNotFound) {
				err = nil
			}
			return noted.Value, err
		}
		if _, err := s.Put(ctx, records+name, value, 0); !errors.Is(err, store.ErrExists) {
			return value, err
		}
	}
}
