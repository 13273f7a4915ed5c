package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// Memory is collected when it has grown by so many percent. Most of what skiff holds lives long: to collect a little more
// often than Go does by itself keeps it small, but where there is much to do that would cost a quarter of the processor.
const (
	growthQuiet = 50
	growthBusy  = 100
	growthStart = 400 // Nearly all that the start reads from the store stays: there is little to collect.
)

const (
	busyFrom   = 3                // Collections without a pause.
	quietAfter = 10 * time.Second // Without a collection.
)

// keepSmall lets memory grow while there is much to do, and gives it back after a pause, with all that forget drops. It runs
// until ctx ends; while nothing happens it does nothing.
func keepSmall(ctx context.Context, pause time.Duration, forget func()) {
	collected := make(chan struct{}, 1)
	onCollection(func() bool {
		select {
		case collected <- struct{}{}:
		default:
		}
		return ctx.Err() == nil
	})
	count := 0
	quiet := time.NewTimer(pause)
	defer quiet.Stop()
	for {
		select {
		case <-collected:
			count++
			quiet.Reset(pause)
			if count == busyFrom {
				debug.SetGCPercent(growthBusy)
			}
		case <-quiet.C:
			if count >= busyFrom {
				debug.SetGCPercent(growthQuiet)
				forget()
				debug.FreeOSMemory()
			}
			count = 0
		case <-ctx.Done():
			return
		}
	}
}

// onCollection calls f after each collection, until it returns false.
func onCollection(f func() bool) {
	type canary struct{ _ *int } // Dead at once, which the next collection finds.
	runtime.AddCleanup(&canary{}, func(struct{}) {
		if f() {
			onCollection(f)
		}
	}, struct{}{})
}
