package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"skiff/store"
)

// explain turns an error of the client's into one of the store's. What nobody can mend by asking differently is
// store.ErrUnavailable: etcd is not there, has no leader, or takes too long. Of the full one it is known that nothing happened.
func explain(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return store.ErrCompacted
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: etcd is full: compact and defragment it, or raise its --quota-backend-bytes; then `etcdctl alarm disarm`", store.ErrRefused)
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: etcd does not let this user in: it needs read and write access to the prefix", store.ErrUnavailable)
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return fmt.Errorf("%w: etcd knows no such user and password", store.ErrUnavailable)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: etcd did not answer in %v", store.ErrUnavailable, callTimeout)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), status.Code(err) == codes.ResourceExhausted:
		return fmt.Errorf("%w: etcd's limit is its --max-request-bytes", store.ErrTooLarge)
	case away(err):
		return fmt.Errorf("%w: %s", store.ErrUnavailable, reason(err))
	}
	return err
}

// away tells the errors that pass when etcd comes back.
func away(err error) bool {
	var known rpctypes.EtcdError
	code := status.Code(err)
	if errors.As(err, &known) {
		code = known.Code()
	}
	return code == codes.Unavailable || errors.Is(err, rpctypes.ErrTooManyRequests) || code == codes.DeadlineExceeded || code == codes.Canceled
}

// reason is the last part of what gRPC says, which is the one that helps.
func reason(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	if i := strings.LastIndex(text, "desc = "); i >= 0 {
		text = text[i+len("desc = "):]
	}
	return strings.Trim(text, `"`)
}
