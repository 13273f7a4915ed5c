package main

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"skiff/store/bolt"
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
	startTime  = 5 * time.Second  // After which what a start needs is not needed any more.
)

// keepSmall lets memory grow while there is much to do, and gives it back after a pause, with all that forget drops. The start is
// such a time, too. It runs until ctx ends; while nothing happens it does nothing.
func keepSmall(ctx context.Context, pause time.Duration, forget func()) {
	collected := make(chan struct{}, 1)
	onCollection(func() bool {
		select {
		case collected <- struct{}{}:
		default:
		}
		return ctx.Err() == nil
	})
	count, worked := 0, true
	quiet := time.NewTimer(pause)
	defer quiet.Stop()
	started := time.NewTimer(startTime)
	defer started.Stop()
	for {
		select {
		case <-collected:
			count++
			quiet.Reset(pause)
			if count == busyFrom {
				debug.SetGCPercent(growthBusy)
				worked = true
			}
		case <-quiet.C:
			if worked {
				debug.SetGCPercent(growthQuiet)
				forget()
				debug.FreeOSMemory()
				giveBackProgram()
			}
			count, worked = 0, false
		case <-started.C: // There may be much to do from then on, and no pause.
			giveBackProgram()
		case <-ctx.Done():
			return
		}
	}
}

// forget drops what the server can have again.
func (p *plane) forget() {
	p.api.Forget()
	if s, ok := p.store.(*bolt.Store); ok {
		s.Forget()
	}
}

// giveBackProgram is done for the machine's other processes: this one goes on well without.
func giveBackProgram() {
	if err := unmapProgram(); err != nil {
		slog.Debug("memory that was needed once is kept", "err", err)
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
