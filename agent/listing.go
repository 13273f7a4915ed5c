package agent

import (
	"context"
	"fmt"
	"sync"
)

// listing shares the runtime's answers between workers: to list costs the daemon some milliseconds, whoever asks, and when many
// pods start at once many ask. What a caller gets was never listed before it asked.
type listing struct {
	mu    sync.Mutex
	begun int // How many listings have begun.

	turn   sync.Mutex // Held while listing; guards what follows.
	done   int        // The number of the listing in latest.
	latest []Container
}

// containers lists what the runtime has of a pod.
func (a *Agent) containers(ctx context.Context, uid string) ([]Container, error) {
	all, err := a.listing.get(ctx, a.runtime)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var own []Container // The list is shared.
	for _, c := range all {
		if c.Pod.UID == uid {
			own = append(own, c)
		}
	}
	return own, nil
}

func (l *listing) get(ctx context.Context, runtime Runtime) ([]Container, error) {
	l.mu.Lock()
	enough := l.begun + 1 // The first listing that is sure to begin after this moment.
	l.mu.Unlock()

	l.turn.Lock()
	defer l.turn.Unlock()
	if l.done >= enough {
		return l.latest, nil
	}
	l.mu.Lock()
	l.begun++
	number := l.begun
	l.mu.Unlock()
	list, err := runtime.Containers(ctx)
	if err != nil {
		return nil, err
	}
	l.done, l.latest = number, list
	return list, nil
}
