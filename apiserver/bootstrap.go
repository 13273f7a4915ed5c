package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Bootstrap writes what every cluster begins with: the namespaces, the system's priority classes, the default storage class, the
// range of Services' addresses, and the Services "kubernetes" and "kube-dns" with their endpoints. Run must be running, and looks after all that
// from then on (foundation.go). What is there already stays; the endpoints are brought up to date. Where another server of the same
// store is set differently, it writes nothing. Of two that begin at the same moment both may go again.
func (s *Server) Bootstrap(ctx context.Context) error {
	if err := s.agreesWithPeers(ctx); err != nil {
		return err
	}
	if _, err := s.layFoundation(ctx); err != nil {
		return err
	}
	if err := s.agreesWithPeers(ctx); err != nil {
		return errors.Join(err, s.Leave(ctx))
	}
	if s.cache.newest == nil {
		s.logRepair(ctx, func() error { _, err := s.repairOnce(ctx, nil); return err }) // Nobody else's write can be under way.
	}
	s.foundation.first.Do(func() { close(s.foundation.laid) })
	return nil
}

// The resources of what is written here.
const (
	serviceCIDRs   = "servicecidrs.networking.k8s.io"
	endpointSlices = "endpointslices.discovery.k8s.io"
)

// bootstrapStorage makes the class local, once: whoever takes it away wants another one. The driver, which is made after it, says
// that it was there.
func (s *Server) bootstrapStorage(ctx context.Context) error {
	const drivers = "csidrivers.storage.k8s.io"
	driver, class := api.LocalStorage()
	if s.shelf(drivers).get(driver.Name) != nil {
		return nil
	}
	if err := s.ensure(ctx, storageClasses, class); err != nil {
		return err
	}
	return s.ensure(ctx, drivers, driver)
}

// authenticationName is of the ConfigMap that tells servers of metrics, webhooks and so on how clients are authenticated.
// https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
const authenticationName = "extension-apiserver-authentication"

// publishClientCA says in that ConfigMap who vouches for clients. What else somebody wrote there stays.
func (s *Server) publishClientCA(ctx context.Context) error {
	const key = "client-ca-file"
	made := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: authenticationName, Namespace: metav1.NamespaceSystem},
		Data:       map[string]string{key: string(s.config.ClientCA)},
	}
	if err := s.ensure(ctx, "configmaps", made); err != nil {
		return err
	}
	at := objectKey(made.Namespace, made.Name)
	_, err := s.modify(ctx, s.shelf("configmaps"), at, "", false, func(old runtime.Object) (runtime.Object, error) {
		now := old.DeepCopyObject().(*corev1.ConfigMap)
		if now.Data == nil {
			now.Data = map[string]string{}
		}
		now.Data[key] = made.Data[key]
		return now, nil
	})
	return err
}

// bootstrapRange shows the ranges that Services get their addresses from. A second one is added to the first; ranges from an
// earlier start with others go.
func (s *Server) bootstrapRange(ctx context.Context) error {
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: api.DefaultServiceCIDR}}
	for _, p := range s.config.ServiceCIDRs {
		cidr.Spec.CIDRs = append(cidr.Spec.CIDRs, p.Masked().String())
	}
	sh := s.shelf(serviceCIDRs)
	if it := sh.get(cidr.Name); it != nil && !extends(cidr.Spec.CIDRs, it.obj.(*networkingv1.ServiceCIDR).Spec.CIDRs) {
		if err := s.cache.remove(ctx, sh, it.key, it.rev); err != nil {
			return fmt.Errorf("delete %s %s: %w", serviceCIDRs, it.key, err)
		}
	}
	if err := s.ensure(ctx, serviceCIDRs, cidr); err != nil {
		return err
	}
	if _, err := s.modify(ctx, sh, cidr.Name, "", false, func(old runtime.Object) (runtime.Object, error) {
		now := old.DeepCopyObject().(*networkingv1.ServiceCIDR)
		now.Spec = cidr.Spec
		return now, nil
	}); err != nil {
		return err
	}
	_, err := s.modify(ctx, sh, cidr.Name, "status", false, func(old runtime.Object) (runtime.Object, error) {
		now := old.DeepCopyObject().(*networkingv1.ServiceCIDR)
		if now.DeletionTimestamp != nil || meta.FindStatusCondition(now.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
			return now, nil // The controller's, from here on.
		}
		meta.SetStatusCondition(&now.Status.Conditions, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
			LastTransitionTime: metav1.Now().Rfc3339Copy(),
		})
		return now, nil
	})
	return err
}

// extends tells ranges that are those before, or have a second one behind them.
func extends(now, before []string) bool {
	return len(before) > 0 && len(now) >= len(before) && slices.Equal(now[:len(before)], before)
}

// ensure creates an object that may be there already.
func (s *Server) ensure(ctx context.Context, resource string, obj runtime.Object) error {
	m := metadata(obj)
	if s.shelf(resource).get(objectKey(m.Namespace, m.Name)) != nil {
		return nil
	}
	_, err := s.create(ctx, s.shelf(resource), m.Namespace, obj, false)
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s %s: %w", resource, m.Name, err)
	}
	return nil
}

// set makes an object be as given.
func (s *Server) set(ctx context.Context, resource string, obj runtime.Object) error {
	m := metadata(obj)
	key := objectKey(m.Namespace, m.Name)
	if s.shelf(resource).get(key) == nil {
		return s.ensure(ctx, resource, obj)
	}
	_, err := s.modify(ctx, s.shelf(resource), key, "", false, func(old runtime.Object) (runtime.Object, error) {
		next := obj.DeepCopyObject()
		metaOf(next).SetManagedFields(metaOf(old).GetManagedFields())
		return next, nil
	})
	if err != nil {
		return fmt.Errorf("update %s %s: %w", resource, m.Name, err)
	}
	return nil
}
