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

const (
	rootCAName = "kube-root-ca.crt"
	rootCAKey  = "ca.crt"

	descriptionAnnotation = "kubernetes.io/description"
	rootCADescription     = "The certificate authority of this cluster's API server, for clients in pods. It vouches for nothing else."
)

// rootCAs puts the API server's certificate authority into each namespace, for pods to verify the server with.
type rootCAs struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	configMaps corelisters.ConfigMapLister
	rootCA     string
}

func newRootCAs(b *base, rootCA []byte) error {
	if len(rootCA) == 0 {
		return nil
	}
	core := b.factory.Core().V1()
	c := &rootCAs{client: b.client, namespaces: core.Namespaces().Lister(), configMaps: core.ConfigMaps().Lister(), rootCA: string(rootCA)}
	loop := b.loop("rootca", 1, c.Reconcile)
	if err := b.watch(loop, core.Namespaces().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.watch(loop, core.ConfigMaps().Informer(), func(obj any) []string {
		if configMap := obj.(*corev1.ConfigMap); configMap.Name == rootCAName {
			return []string{configMap.Namespace}
		}
		return nil
	})
}

// Reconcile makes one namespace's ConfigMap, or puts its content right.
func (c *rootCAs) Reconcile(ctx context.Context, namespace string) (time.Duration, error) {
	if use, err := inUse(c.namespaces, namespace); err != nil || !use {
		return 0, err
	}
	api := c.client.CoreV1().ConfigMaps(namespace)
	existing, err := c.configMaps.ConfigMaps(namespace).Get(rootCAName)
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Name: rootCAName, Namespace: namespace,
				Annotations: map[string]string{descriptionAnnotation: rootCADescription},
			},
			Data: map[string]string{rootCAKey: c.rootCA},
		}, metav1.CreateOptions{})
		err = furnishError(err)
	case err != nil:
		return 0, err
	case len(existing.Data) != 1 || existing.Data[rootCAKey] != c.rootCA:
		updated := existing.DeepCopy()
		updated.Data = map[string]string{rootCAKey: c.rootCA}
		_, err = api.Update(ctx, updated, metav1.UpdateOptions{})
	}
	if err != nil {
		return 0, fmt.Errorf("write config map %s/%s: %w", namespace, rootCAName, err)
	}
	return 0, nil
}
