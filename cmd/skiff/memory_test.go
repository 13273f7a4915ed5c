package main

import (
	"context"
	"runtime"
	"testing"
	"time"
)

func TestMemoryIsGivenBackAfterTheStartAndAfterMuchWork(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	forgot := make(chan struct{}, 1)
	go keepSmall(ctx, 50*time.Millisecond, func() {
		select {
		case forgot <- struct{}{}:
		default:
		}
	})
	late := time.After(time.Minute)
	select {
	case <-forgot:
	case <-late:
		t.Fatal("nothing was forgotten after the start")
	}
	for {
		for range 2 * busyFrom {
			runtime.GC() // All that keepSmall sees of work.
		}
		select {
		case <-forgot:
			return
		case <-time.After(500 * time.Millisecond): // On a slow machine the pauses may have been too long for much work.
		case <-late:
			t.Fatal("nothing was forgotten after many collections and a pause")
		}
	}
}
