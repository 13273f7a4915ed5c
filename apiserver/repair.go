package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"skiff/store"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// repairEvery is how often the records of addresses and node ports are compared with the Services, where several servers
// use the store; as in Kubernetes. It is longer than claimLife: what is without a Service in two rounds is forgotten.
const repairEvery = 3 * time.Minute

// repair makes the records agree with the Services: it makes what is missing, and removes what was left behind by a server
// that ended between the two writes. A server that has the store for itself does so in Bootstrap, and later only where it is in doubt.
func (s *Server) repair(ctx context.Context) error {
	if s.cache.newest == nil {
		return s.repairDoubts(ctx)
	}
	ticker := time.NewTicker(repairEvery)
	defer ticker.Stop()
	suspects := map[string]uint64{} // Records without a Service, and their revisions.
	for {
		s.logRepair(ctx, func() (err error) { suspects, err = s.repairOnce(ctx, suspects); return err })
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// doubtPause is how long a doubt waits for the next look: the disk may be away.
const doubtPause = 10 * time.Second

// doubt has the records looked at where it is open whether one was written or removed.
func (s *Server) doubt() {
	select {
	case s.doubts <- struct{}{}:
	default: // It is known already.
	}
}

func (s *Server) repairDoubts(ctx context.Context) error {
	for {
		select {
		case <-s.doubts:
		case <-ctx.Done():
			return nil
		}
		for ctx.Err() == nil {
			err := s.cache.catchUp(ctx, s.shelf("services"), "") // Not with the allocator's lock held: it takes as long as the disk is away.
			if err == nil {
				_, err = s.repairOnce(ctx, nil)
			}
			if err == nil {
				break
			}
			slog.Debug("the records of Services wait for the store", "err", err)
			sleep(ctx, doubtPause)
		}
	}
}

// logRepair tells of a repair that did not work. It is no reason to stop: what it mends does no harm yet.
func (s *Server) logRepair(ctx context.Context, do func() error) {
	if err := do(); err != nil && ctx.Err() == nil {
		slog.Warn("the records of Services' addresses and node ports were not checked", "err", err)
	}
}

// repairOnce does one round. With nil for suspects every record without a Service goes; else only those that were
// suspected in the round before. It returns the new suspects.
func (s *Server) repairOnce(ctx context.Context, suspects map[string]uint64) (map[string]uint64, error) {
	s.allocator.mu.Lock() // No write of this server is under way.
	defer s.allocator.mu.Unlock()
	found, rev, err := s.readRecords(ctx)
	if err == nil { // Afterwards: a Service that the records were made for is there then.
		limited, cancel := context.WithTimeout(ctx, newsTimeout)
		defer cancel()
		err = s.cache.wait(limited, rev)
	}
	if err == nil {
		err = s.cache.freshen(ctx)
	}
	if err != nil {
		return suspects, err
	}
	services := s.shelf("services")
	needed := map[holding]bool{}
	for _, it := range services.state(s.cache).items(selectAll(services.resource)) {
		svc := it.obj.(*corev1.Service)
		for _, h := range holdings(svc) {
			if needed[h] {
				slog.Warn("two Services have the same", "address", h.address, "nodePort", h.port, "service", it.key)
			}
			needed[h] = true
			if _, ok := found[h]; ok {
				continue
			}
			if _, err := s.record(ctx, h, svc); err != nil && !errors.Is(err, store.ErrExists) {
				return suspects, err
			}
		}
	}
	next := map[string]uint64{}
	for h, rev := range found {
		switch before, ok := suspects[h.storeKey()]; {
		case needed[h]:
		case suspects == nil, ok && before == rev:
			err := s.forgetRecord(ctx, h.storeKey(), rev)
			if err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
				return suspects, err
			}
		default:
			next[h.storeKey()] = rev
		}
	}
	return next, nil
}

// readRecords are the records of the server's own that the store has, with their revisions, and the store's revision.
func (s *Server) readRecords(ctx context.Context) (found map[holding]uint64, rev uint64, err error) {
	found = map[holding]uint64{}
	for _, prefix := range []string{ipAddresses + "/", nodePortRecords} {
		kvs, at, err := s.cache.store.List(ctx, prefix)
		if err != nil {
			return nil, 0, err
		}
		rev = at
		for _, kv := range kvs {
			h, ok := holdingOf(kv.Key)
			if !ok {
				continue
			}
			if h.address != "" {
				it, err := newItem(s.shelf(ipAddresses), strings.TrimPrefix(kv.Key, prefix), kv)
				if err != nil {
					return nil, 0, err
				}
				if recordOwner(it.obj.(*networkingv1.IPAddress)) == "" {
					continue
				}
			}
			found[h] = kv.Rev
		}
	}
	return found, rev, nil
}
