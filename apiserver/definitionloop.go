package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"skiff/api"
	"skiff/apiserver/custom"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// retryDefinitions is how long a step that failed waits for the next try.
const retryDefinitions = time.Second

// followDefinitions decides about the names of definitions and, when one is deleted, deletes its objects first. It looks
// whenever a definition changes, until ctx ends.
func (s *Server) followDefinitions(ctx context.Context) error {
	sh := s.shelf(definitions)
	e := emptying{server: s, under: map[types.UID]bool{}}
	defer e.all.Wait()
	for ctx.Err() == nil {
		err := s.stream(ctx, sh, selectAll(sh.resource), watchOptions{state: true, timeout: forever}, sinkFunc(func(ev event, _ bool) error {
			crd := ev.item.obj.(*apiextensionsv1.CustomResourceDefinition)
			if ev.kind != watch.Deleted {
				e.begin(ctx, crd)
			}
			return s.acceptNames(ctx, crd.Spec.Group)
		}))
		if err != nil && ctx.Err() == nil {
			slog.Warn("definitions wait to be looked at again", "err", err)
			sleep(ctx, retryDefinitions)
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// acceptNames decides about those definitions of a group that do not yet go by the names that they ask for.
func (s *Server) acceptNames(ctx context.Context, group string) error {
	sh := s.shelf(definitions)
	for _, crd := range s.definitionsOf(group) {
		if api.IsDefinitionTrue(crd, apiextensionsv1.NamesAccepted) && equality.Semantic.DeepEqual(crd.Spec.Names, crd.Status.AcceptedNames) {
			continue
		}
		_, err := s.modify(ctx, sh, crd.Name, "status", false, func(old runtime.Object) (runtime.Object, error) {
			next := old.DeepCopyObject().(*apiextensionsv1.CustomResourceDefinition)
			next.Status = custom.Accept(next, s.table, s.definitionsOf(group), metav1.Now().Rfc3339Copy())
			return next, nil
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("accept the names of %s: %w", crd.Name, err)
		}
	}
	return nil
}

// definitionsOf are those of a group, the oldest first: it has the names that two ask for.
func (s *Server) definitionsOf(group string) []*apiextensionsv1.CustomResourceDefinition {
	sh := s.shelf(definitions)
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, it := range sh.state(s.cache).items(selectAll(sh.resource)) {
		if crd := it.obj.(*apiextensionsv1.CustomResourceDefinition); crd.Spec.Group == group {
			all = append(all, crd)
		}
	}
	slices.SortStableFunc(all, func(a, b *apiextensionsv1.CustomResourceDefinition) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return all
}

// emptying deletes the objects of definitions that are being deleted, each definition's by a goroutine of its own: an object
// may have a finalizer, and take its time.
type emptying struct {
	server *Server
	all    sync.WaitGroup

	mu    sync.Mutex
	under map[types.UID]bool // Definitions whose objects are being deleted.
}

// begin sees to a definition that waits for its objects to go, unless somebody does already.
func (e *emptying) begin(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.under[crd.UID] || !custom.WaitsForObjects(crd) {
		return
	}
	e.under[crd.UID] = true
	e.all.Go(func() { // Ends with ctx, or when the definition is free to go.
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.under, crd.UID)
		}()
		for ctx.Err() == nil {
			err := e.server.emptyDefinition(ctx, crd.Name, crd.UID)
			if err == nil || apierrors.IsNotFound(err) {
				return
			}
			if ctx.Err() == nil {
				slog.Warn("the objects of a definition are still there", "definition", crd.Name, "err", err)
			}
			sleep(ctx, retryDefinitions)
		}
	})
}

// emptyDefinition deletes all objects of a definition, waits until they are gone, and lets the definition go. A later one of the
// same name is none of its business.
func (s *Server) emptyDefinition(ctx context.Context, name string, uid types.UID) error {
	done := custom.NeverEstablished()
	if kind := s.cache.custom.all()[name]; kind != nil && kind.crd.UID == uid {
		kind.shelf.gate.close()
		if err := s.setDefinition(ctx, name, uid, "status", func(crd *apiextensionsv1.CustomResourceDefinition) {
			custom.SetCondition(crd, custom.DeletionInProgress(), metav1.Now().Rfc3339Copy())
		}); err != nil {
			return err
		}
		if err := s.emptyShelf(ctx, kind.shelf); err != nil {
			return err
		}
		done = custom.DeletionCompleted()
	}
	if err := s.setDefinition(ctx, name, uid, "status", func(crd *apiextensionsv1.CustomResourceDefinition) {
		custom.SetCondition(crd, done, metav1.Now().Rfc3339Copy())
	}); err != nil {
		return err
	}
	return s.setDefinition(ctx, name, uid, "", custom.Release)
}

// setDefinition changes a definition that waits for its objects; it is not found if there is no such definition any more.
func (s *Server) setDefinition(ctx context.Context, name string, uid types.UID, sub string, set func(*apiextensionsv1.CustomResourceDefinition)) error {
	sh := s.shelf(definitions)
	_, err := s.modify(ctx, sh, name, sub, false, func(old runtime.Object) (runtime.Object, error) {
		if crd := old.(*apiextensionsv1.CustomResourceDefinition); crd.UID != uid || !custom.WaitsForObjects(crd) {
			return nil, notFound(sh.resource, name)
		}
		next := old.DeepCopyObject().(*apiextensionsv1.CustomResourceDefinition)
		set(next)
		return next, nil
	})
	return err
}

// errEmpty ends a watch for the last object of a shelf.
var errEmpty = errors.New("the shelf is empty")

// emptyShelf deletes all objects and waits for the last to go.
func (s *Server) emptyShelf(ctx context.Context, sh *shelf) error {
	for _, it := range sh.state(s.cache).items(selectAll(sh.resource)) {
		if _, _, err := s.delete(ctx, sh, it.key, &metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if sh.isEmpty() {
		return nil
	}
	err := s.stream(ctx, sh, selectAll(sh.resource), watchOptions{state: true, marked: true, timeout: forever}, sinkFunc(func(event, bool) error {
		if sh.isEmpty() {
			return errEmpty
		}
		return nil
	}))
	switch {
	case errors.Is(err, errEmpty):
		return nil
	case err == nil:
		return errors.New("the watch ended before the last object was gone")
	}
	return err
}
