package apiserver

import (
	"context"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// advertised is where others reach this server now: first Config.Advertise, then what Move said.
func (s *Server) advertised() netip.AddrPort { return *s.advertise.Load() }

// Move tells the server that others reach it at another address, of the same family. The endpoints of the Service "kubernetes" follow;
// if they cannot be written now, later.
func (s *Server) Move(ctx context.Context, to netip.AddrPort) (err error) {
	defer func() {
		if err != nil {
			s.foundation.lookAgain()
		}
	}()
	before := s.peerName()
	s.advertise.Store(&to)
	if s.cache.newest != nil && before != s.peerName() {
		_, _, err := s.delete(ctx, s.shelf(leases), objectKey(metav1.NamespaceSystem, before), &metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		return s.meet(ctx)
	}
	return s.bootstrapKubernetes(ctx)
}
