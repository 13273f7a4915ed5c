package controller

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"skiff/reconcile"
)

const defaultServiceAccount = "default"

// serviceAccounts sees to it that each namespace has the ServiceAccount under which its pods run unless they say another.
type serviceAccounts struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
}

func newServiceAccounts(b *base) error {
	core := b.factory.Core().V1()
	c := &serviceAccounts{client: b.client, namespaces: core.Namespaces().Lister(), accounts: core.ServiceAccounts().Lister()}
	loop := b.loop("serviceaccount", 1, c.Reconcile)
	if err := b.watch(loop, core.Namespaces().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.watch(loop, core.ServiceAccounts().Informer(), func(obj any) []string {
		if account := obj.(*corev1.ServiceAccount); account.Name == defaultServiceAccount {
			return []string{account.Namespace}
		}
		return nil
	})
}

// Reconcile makes the ServiceAccount of one namespace if it is not there.
func (c *serviceAccounts) Reconcile(ctx context.Context, namespace string) (time.Duration, error) {
	if use, err := inUse(c.namespaces, namespace); err != nil || !use {
		return 0, err
	}
	if _, err := c.accounts.ServiceAccounts(namespace).Get(defaultServiceAccount); !apierrors.IsNotFound(err) {
		return 0, err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: defaultServiceAccount, Namespace: namespace}}
	_, err := c.client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	if err := furnishError(err); err != nil {
		return 0, fmt.Errorf("create service account %s/%s: %w", namespace, defaultServiceAccount, err)
	}
	return 0, nil
}

// inUse says whether a namespace is there and not being deleted.
func inUse(namespaces corelisters.NamespaceLister, name string) (bool, error) {
	ns, err := namespaces.Get(name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil, err
}

// furnishError drops the errors of creating what each namespace has that mean that nothing is left to do: it is there
// already, or the namespace goes.
func furnishError(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
