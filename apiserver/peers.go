package apiserver

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The servers that use one store know each other by Leases in kube-system: each renews its own, whose holder is the
// address that it advertises. The endpoints of the Service "kubernetes" are those whose Lease is alive. Whether a Lease is
// alive is judged by one's own clock since it last changed, so clocks need not agree.
// https://kubernetes.io/docs/concepts/architecture/leases/#api-server-identity

const (
	peerRenew  = 10 * time.Second // How often a server renews its Lease.
	peerSilent = 30 * time.Second // How long one may be silent before it counts as gone.

	peerLabel = "apiserver.kubernetes.io/identity"
	peerValue = "kube-apiserver"
)

// leases is the resource of the Leases.
const leases = "leases.coordination.k8s.io"

// peers is what a server knows of the others, itself included.
type peers struct {
	mu   sync.Mutex
	seen map[string]sighting // By the name of the Lease.
	left bool                // Whether this server has taken its leave.
}

// sighting is when a Lease was first seen at a revision.
type sighting struct {
	rev uint64
	at  time.Time
}

// keepPeers says that this server is here, and looks who else is, until ctx ends.
func (s *Server) keepPeers(ctx context.Context) error {
	if s.cache.newest == nil {
		return nil
	}
	ticker := time.NewTicker(peerRenew)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		if err := s.meet(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("this server could not tell the others that it is here", "err", err)
		}
	}
}

// meet renews this server's Lease and brings the endpoints of the Service "kubernetes" in line with who is there.
func (s *Server) meet(ctx context.Context) error {
	s.peers.mu.Lock()
	defer s.peers.mu.Unlock()
	if s.peers.left {
		return nil
	}
	if err := s.set(ctx, leases, s.ownLease()); err != nil {
		return err
	}
	return s.publishPeers(ctx)
}

// publish brings the endpoints in line without a word of this server itself.
func (s *Server) publish(ctx context.Context) error {
	s.peers.mu.Lock()
	defer s.peers.mu.Unlock()
	return s.publishPeers(ctx)
}

// Leave takes this server out of the endpoints of the Service "kubernetes", before it stops.
func (s *Server) Leave(ctx context.Context) error {
	if s.cache.newest == nil {
		return nil
	}
	s.peers.mu.Lock()
	defer s.peers.mu.Unlock()
	s.peers.left = true
	_, _, err := s.delete(ctx, s.shelf(leases), objectKey(metav1.NamespaceSystem, s.peerName()), &metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return s.publishPeers(ctx)
}

// peerName is that of this server's Lease: the same after a restart.
func (s *Server) peerName() string {
	return "apiserver-" + strings.NewReplacer(":", "-", ".", "-", "[", "", "]", "").Replace(s.advertised().String())
}

func (s *Server) ownLease() *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.peerName(), Namespace: metav1.NamespaceSystem, Labels: map[string]string{peerLabel: peerValue},
			Annotations: map[string]string{commonAnnotation: strings.Join(s.config.Common, " ")},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr(s.advertised().String()), LeaseDurationSeconds: ptr(int32(peerSilent / time.Second)),
			RenewTime: ptr(metav1.NowMicro()),
		},
	}
}

// publishPeers writes the endpoints. Where nobody is left, the last ones stay: nothing would be better off without.
func (s *Server) publishPeers(ctx context.Context) error {
	k := s.kubernetesService()
	alive := s.lookAround(ctx, time.Now())
	if len(alive) == 0 {
		return nil
	}
	addresses, port := samePort(alive)
	k.addresses, k.ports = addresses, []int32{int32(port)}
	return s.setEndpoints(ctx, k)
}

// lookAround returns the addresses of the servers that are there, and deletes the Leases of those that fell silent.
func (s *Server) lookAround(ctx context.Context, now time.Time) (alive []netip.AddrPort) {
	sh := s.shelf(leases)
	seen := map[string]sighting{}
	for _, it := range sh.state(s.cache).items(selectAll(sh.resource)) {
		lease := it.obj.(*coordinationv1.Lease)
		if lease.Namespace != metav1.NamespaceSystem || lease.Labels[peerLabel] != peerValue {
			continue
		}
		last, ok := s.peers.seen[lease.Name]
		if !ok || last.rev != it.rev {
			last = sighting{it.rev, now}
		}
		seen[lease.Name] = last
		if now.Sub(last.at) > peerSilent {
			_ = s.cache.remove(ctx, sh, it.key, it.rev) // Renewed meanwhile: then it is alive the next time.
			continue
		}
		if addr, err := netip.ParseAddrPort(ptrOr(lease.Spec.HolderIdentity, "")); err == nil {
			alive = append(alive, addr)
		}
	}
	s.peers.seen = seen
	return alive
}

// samePort picks the servers that listen on the same port, at an address of the same family, as the first of them: endpoints
// have one for all, and all servers must pick the same.
func samePort(servers []netip.AddrPort) (addresses []string, port uint16) {
	slices.SortFunc(servers, netip.AddrPort.Compare)
	port = servers[0].Port()
	for _, server := range servers {
		if server.Port() == port && server.Addr().Is6() == servers[0].Addr().Is6() {
			addresses = append(addresses, server.Addr().String())
		}
	}
	return slices.Compact(addresses), port
}
