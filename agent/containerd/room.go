package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

// noRoom marks an error that has no other reason than a full disk. What the daemon found out comes as text.
func noRoom(err error) error {
	if err == nil || errors.Is(err, agent.ErrNoRoom) {
		return err
	}
	for _, full := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		if strings.Contains(err.Error(), full.Error()) {
			return fmt.Errorf("%w: %w", agent.ErrNoRoom, err)
		}
	}
	return err
}

// Collect has the daemon collect its garbage and waits for that: who lets go of a lease may ask for it.
func (r *Runtime) Collect(ctx context.Context) error {
	ctx = r.in(ctx)
	l, err := r.client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err == nil {
		err = r.client.LeasesService().Delete(ctx, l, leases.SynchronousDelete)
	}
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	return nil
}

// leaseTime is for a lease whose owner is killed.
const leaseTime = 24 * time.Hour

// leased keeps the daemon's collector from what is made with the returned context, until release is told how that went. Of what failed
// otherwise the next try goes on with the parts that are here; where there was no room, they are collected at once.
func (r *Runtime) leased(ctx context.Context) (_ context.Context, release func(error), err error) {
	service := r.client.LeasesService()
	l, err := service.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		return nil, nil, fmt.Errorf("create lease: %w", err)
	}
	return leases.WithLease(ctx, l.ID), func(failed error) {
		var how []leases.DeleteOpt
		if errors.Is(failed, agent.ErrNoRoom) {
			how = append(how, leases.SynchronousDelete)
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_ = service.Delete(clean, l, how...) // It expires by itself.
	}, nil
}
