package apiserver

import (
	"context"
	"errors"
	"time"

	"skiff/store"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
)

const (
	// eventLife is how long Events are kept, as in Kubernetes (--event-ttl).
	eventLife = time.Hour
	// expireEvery is how long an Event may be overdue. Those of a minute go together, as the leases that Kubernetes gives
	// its Events in etcd are shared by those of a minute.
	expireEvery = time.Minute
	// expireAtOnce is how many are deleted at a time: they share one wait for the disk.
	expireAtOnce = 128
)

// expireEvents deletes Events that are too old. Between, it sleeps until there are some.
func (s *Server) expireEvents(ctx context.Context) error {
	for {
		next := s.expireDue(ctx, time.Now())
		select {
		case <-time.After(time.Until(next) + expireEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// expireDue deletes those that are too old now, and returns when the next one is due.
func (s *Server) expireDue(ctx context.Context, now time.Time) time.Time {
	events := s.shelf("events")
	next := now.Add(eventLife)
	var deletions errgroup.Group
	deletions.SetLimit(expireAtOnce)
	for _, it := range events.state(s.cache).items(selectAll(events.resource)) {
		due := lastSeen(it.obj.(*corev1.Event), now).Add(eventLife)
		if due.After(now) {
			if due.Before(next) {
				next = due
			}
			continue
		}
		deletions.Go(func() error {
			err := s.cache.remove(ctx, events, it.key, it.rev)
			if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
				return nil // Gone or changed meanwhile: then it is not for us any more, or comes up again.
			}
			return err
		})
	}
	if deletions.Wait() != nil {
		return now // The store cannot do it now.
	}
	return next
}

// lastSeen is when an Event last happened. What its writer says of a time that is yet to come does not count.
func lastSeen(e *corev1.Event, now time.Time) time.Time {
	last := e.CreationTimestamp.Time
	seen := []time.Time{e.LastTimestamp.Time, e.EventTime.Time}
	if e.Series != nil {
		seen = append(seen, e.Series.LastObservedTime.Time)
	}
	for _, t := range seen {
		if t.After(last) && !t.After(now) {
			last = t
		}
	}
	return last
}
