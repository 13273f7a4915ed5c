package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"skiff/api"
	"skiff/store"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// What every cluster begins with is there for good: it is made again when a client takes it away, and as soon as that is
// possible where a client has its place or its address.
//
// In Kubernetes: the controllers of kube-apiserver itself, for the system's namespaces, for the Service "kubernetes", for the
// default ServiceCIDR, and for what servers of more APIs must know. Left out: the names of headers by which kube-apiserver tells
// those who asks, as it asks none.

const (
	foundationRetry = 10 * time.Second // How often something is tried that is missing.
	foundationPause = time.Second      // Between two looks, however often something changes.
)

var systemNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

// foundation is how far the server is with it.
type foundation struct {
	laid    chan struct{} // Closed by Bootstrap.
	first   sync.Once     // Closes it.
	changed chan struct{} // Has one, if something may have to be made anew.

	mu   sync.Mutex
	said string // What was logged last.
}

// foundationSteps make what every cluster begins with, where it is not there. They do not hang on each other.
func (s *Server) foundationSteps() []func(context.Context) error {
	var steps []func(context.Context) error
	for _, name := range systemNamespaces {
		steps = append(steps, func(ctx context.Context) error {
			return s.ensure(ctx, "namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		})
	}
	for _, class := range api.SystemPriorityClasses() {
		steps = append(steps, func(ctx context.Context) error { return s.ensure(ctx, priorityClasses, class) })
	}
	steps = append(steps, s.bootstrapStorage, s.bootstrapRange, s.bootstrapKubernetes)
	if len(s.config.ClientCA) > 0 {
		steps = append(steps, s.publishClientCA)
	}
	if len(s.config.ClusterDNS) > 0 {
		steps = append(steps, func(ctx context.Context) error { return s.bootstrapService(ctx, s.dnsService()) })
	}
	return steps
}

// layFoundation takes all steps. What may not be written is reported as missing; any other error ends it.
func (s *Server) layFoundation(ctx context.Context) (missing, err error) {
	var refused []error
	for _, step := range s.foundationSteps() {
		err := step(ctx)
		if err != nil && !mayBeMissing(err) {
			return nil, err
		}
		refused = append(refused, err)
	}
	missing = errors.Join(refused...)
	s.foundation.report(missing)
	return missing, nil
}

// mayBeMissing tells the errors with which the server goes on: a client may have taken a place or an address, or have bounded
// a namespace by a quota, or the disk may be read-only.
func mayBeMissing(err error) bool {
	var refused apierrors.APIStatus
	return errors.As(err, &refused) && refused.Status().Code < http.StatusInternalServerError || errors.Is(err, store.ErrRefused)
}

// report logs what is missing, once.
func (f *foundation) report(missing error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := ""
	if missing != nil {
		text = missing.Error()
	}
	if text != f.said && text != "" {
		slog.Warn("the cluster goes without something that it should begin with", "err", missing)
	}
	f.said = text
}

// incomplete says whether something was missing at the last look.
func (f *foundation) incomplete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said != ""
}

// lookAgain has keepFoundation look.
func (f *foundation) lookAgain() {
	select {
	case f.changed <- struct{}{}:
	default: // It is known already.
	}
}

// keepFoundation looks after it from when it was laid until ctx ends.
func (s *Server) keepFoundation(ctx context.Context) error {
	select {
	case <-s.foundation.laid:
	case <-ctx.Done():
		return nil
	}
	var watches sync.WaitGroup
	defer watches.Wait()
	for resource, keys := range s.foundationKeys() {
		watches.Go(func() { s.notice(ctx, s.shelf(resource), keys) })
	}
	for {
		missing, err := s.layFoundation(ctx)
		if err != nil && ctx.Err() == nil {
			slog.Warn("it could not be seen to what every cluster begins with", "err", err)
		}
		var again <-chan time.Time
		if missing != nil || err != nil {
			again = time.After(foundationRetry)
		}
		sleep(ctx, foundationPause)
		select {
		case <-s.foundation.changed:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// foundationKeys are the objects to look after, by resource.
func (s *Server) foundationKeys() map[string]map[string]bool {
	services, slices := map[string]bool{}, map[string]bool{}
	for _, k := range []wellKnown{s.kubernetesService(), s.dnsService()} {
		services[objectKey(k.service.Namespace, k.service.Name)] = true
		for _, slice := range k.slices() {
			slices[objectKey(slice.Namespace, slice.Name)] = true
		}
	}
	namespaces := map[string]bool{}
	for _, name := range systemNamespaces {
		namespaces[name] = true
	}
	all := map[string]map[string]bool{
		"namespaces": namespaces, "services": services, "endpoints": services, endpointSlices: slices,
		serviceCIDRs: {api.DefaultServiceCIDR: true},
	}
	if len(s.config.ClientCA) > 0 {
		all["configmaps"] = map[string]bool{objectKey(metav1.NamespaceSystem, authenticationName): true}
	}
	return all
}

// notice tells of each change of one of the objects under keys, and of what may make room for one, until ctx ends.
func (s *Server) notice(ctx context.Context, sh *shelf, keys map[string]bool) {
	for ctx.Err() == nil {
		err := s.stream(ctx, sh, selectAll(sh.resource), watchOptions{state: true, timeout: forever}, sinkFunc(func(ev event, _ bool) error {
			if keys[ev.item.key] || ev.kind == watch.Deleted && s.foundation.incomplete() { // It may have had the place.
				s.foundation.lookAgain()
			}
			return nil
		}))
		if err != nil && ctx.Err() == nil {
			slog.Warn("a watch of what every cluster begins with ended", "err", err)
		}
		sleep(ctx, foundationPause)
	}
}
