package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// commonAnnotation is where the Lease of a server says what all servers of a store must have in common.
const commonAnnotation = "skiff.dev/common"

// agreesWithPeers holds that this server has in common with the others what Config.Common says. It is for the start: nobody is told
// then that this server is here. Who has fallen silent does not count. No server has looked at it for long yet, so that is judged by
// the time that it said last.
func (s *Server) agreesWithPeers(ctx context.Context) error {
	if s.cache.newest == nil {
		return nil
	}
	if err := s.cache.freshen(ctx); err != nil {
		return err
	}
	sh := s.shelf(leases)
	for _, it := range sh.state(s.cache).items(selectAll(sh.resource)) {
		lease := it.obj.(*coordinationv1.Lease)
		if lease.Namespace != metav1.NamespaceSystem || lease.Labels[peerLabel] != peerValue || lease.Name == s.peerName() {
			continue
		}
		if said := lease.Spec.RenewTime; said == nil || time.Since(said.Time).Abs() > peerSilent {
			continue
		}
		theirs, own := unlike(strings.Fields(lease.Annotations[commonAnnotation]), s.config.Common)
		if len(theirs) > 0 {
			return fmt.Errorf("the server at %s serves this cluster with %s, and this one would with %s: all servers of a cluster need the same (to have it otherwise, stop the others before; one that was killed counts for %v)",
				ptrOr(lease.Spec.HolderIdentity, ""), strings.Join(theirs, " "), strings.Join(own, " "), peerSilent)
		}
	}
	return nil
}

// unlike are the settings of two servers that are not the same, each as the one and as the other has it. What only one of them
// knows does not count: they may be of different versions.
func unlike(theirs, ours []string) (a, b []string) {
	for _, own := range ours {
		name, _, _ := strings.Cut(own, "=")
		i := slices.IndexFunc(theirs, func(other string) bool { return strings.HasPrefix(other, name+"=") })
		if i >= 0 && theirs[i] != own {
			a, b = append(a, theirs[i]), append(b, own)
		}
	}
	return a, b
}
