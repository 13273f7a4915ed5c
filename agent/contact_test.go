package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Nobody waits for long for an API that takes calls and does not answer; and once the node has found out, nobody at all.
func TestNobodyWaitsForASilentAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &contact{doubt: make(chan struct{}, 1)}
		calls := 0
		silent := func(ctx context.Context) error {
			calls++
			<-ctx.Done()
			return ctx.Err()
		}
		begin := time.Now()
		if err := c.ask(t.Context(), silent); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != patience {
			t.Errorf("after %v the answer is %v, want none after %v", time.Since(begin), err, patience)
		}
		select {
		case <-c.doubt:
		default:
			t.Error("the node does not hear that somebody got no answer")
		}
		if c.learn(context.DeadlineExceeded) {
			t.Error("no answer is taken for the API's return")
		}
		begin = time.Now()
		if err := c.ask(t.Context(), silent); later(err) != nil || err == nil || time.Since(begin) != 0 || calls != 1 {
			t.Errorf("with the API away the answer is %v after %v and %d calls", err, time.Since(begin), calls)
		}
		if !c.learn(nil) || c.learn(nil) {
			t.Error("the API's return is not told once")
		}
		if err := c.ask(t.Context(), func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

func TestUnanswered(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("dial tcp 192.0.2.1:6443: connect: connection refused"), true},
		{context.DeadlineExceeded, true},
		{apierrors.NewServiceUnavailable("starting"), true},
		{apierrors.NewInternalError(errors.New("store is closed")), true},
		{apierrors.NewNotFound(v1.Resource("pods"), "web"), false},
		{apierrors.NewTooManyRequests("busy", 1), false},
	} {
		if got := unanswered(tc.err); got != tc.want {
			t.Errorf("%v is unanswered: %t, want %t", tc.err, got, tc.want)
		}
	}
}
