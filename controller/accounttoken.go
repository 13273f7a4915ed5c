package controller

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// accountTokens fills Secrets of type kubernetes.io/service-account-token, and deletes them with their ServiceAccount.
// https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#token-controller
type accountTokens struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	secrets  cache.Indexer
	sign     func(*corev1.ServiceAccount, *corev1.Secret) (string, error)
	rootCA   []byte
}

// byAccount is an index of the Secrets of this type, by "namespace/name" of their ServiceAccount.
const byAccount = "account"

func newAccountTokens(b *base, rootCA []byte, sign func(*corev1.ServiceAccount, *corev1.Secret) (string, error)) error {
	if sign == nil {
		return nil
	}
	core := b.factory.Core().V1()
	c := &accountTokens{
		client: b.client, accounts: core.ServiceAccounts().Lister(), secrets: core.Secrets().Informer().GetIndexer(),
		sign: sign, rootCA: rootCA,
	}
	if err := addIndex(core.Secrets().Informer(), byAccount, func(obj any) ([]string, error) { return accountOf(obj.(*corev1.Secret)), nil }); err != nil {
		return err
	}
	loop := b.loop("accounttoken", 1, c.Reconcile)
	if err := b.watch(loop, core.Secrets().Informer(), func(obj any) []string { return tokenKeys(obj.(*corev1.Secret)) }); err != nil {
		return err
	}
	return b.watch(loop, core.ServiceAccounts().Informer(), func(obj any) []string {
		account := obj.(*corev1.ServiceAccount)
		secrets, err := c.secrets.ByIndex(byAccount, account.Namespace+"/"+account.Name)
		if err != nil {
			return nil
		}
		var keys []string
		for _, secret := range secrets {
			keys = append(keys, tokenKeys(secret.(*corev1.Secret))...)
		}
		return keys
	})
}

// accountOf is the ServiceAccount whose token a Secret is to hold, if it is to hold one.
func accountOf(s *corev1.Secret) []string {
	name := s.Annotations[corev1.ServiceAccountNameKey]
	if s.Type != corev1.SecretTypeServiceAccountToken || name == "" {
		return nil
	}
	return []string{s.Namespace + "/" + name}
}

// tokenKeys is a Secret as this loop knows it, together with its account: "namespace/secret/account". Of a Secret that is
// gone nothing else would tell the account.
func tokenKeys(s *corev1.Secret) []string {
	if accountOf(s) == nil {
		return nil
	}
	return []string{s.Namespace + "/" + s.Name + "/" + s.Annotations[corev1.ServiceAccountNameKey]}
}

// Reconcile fills one Secret, or deletes it because its account is not there; or it has the account forget a Secret that is gone.
func (c *accountTokens) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	parts := strings.SplitN(key, "/", 3)
	namespace, name, accountName := parts[0], parts[1], parts[2]
	obj, there, err := c.secrets.GetByKey(namespace + "/" + name)
	if err != nil {
		return 0, err
	}
	if !there {
		return 0, c.forget(ctx, namespace, name, accountName)
	}
	secret := obj.(*corev1.Secret)
	if !slices.Contains(tokenKeys(secret), key) {
		return 0, nil // It is another by now, under a key of its own.
	}
	account, err := c.account(ctx, namespace, accountName, secret.Annotations[corev1.ServiceAccountUIDKey])
	switch {
	case err != nil:
		return 0, fmt.Errorf("read the service account %s/%s: %w", namespace, accountName, err)
	case account == nil:
		err = c.client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
	default:
		err = c.fill(ctx, secret, account)
	}
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return 0, nil // What has changed comes back as a key.
	case apierrors.IsInvalid(err): // Trying again does not help: the Secret is immutable, say.
		slog.Warn("a Secret gets no token", "namespace", namespace, "secret", name, "err", err)
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("write the secret %s/%s: %w", namespace, name, err)
	}
	return 0, nil
}

// account finds a ServiceAccount, with this UID if any; nil if it is not there. One that this program has not heard of may
// have been made just now, before its Secret, so the API server has the last word.
func (c *accountTokens) account(ctx context.Context, namespace, name, uid string) (*corev1.ServiceAccount, error) {
	is := func(a *corev1.ServiceAccount) bool { return uid == "" || string(a.UID) == uid }
	if account, err := c.accounts.ServiceAccounts(namespace).Get(name); err == nil && is(account) {
		return account, nil
	}
	account, err := c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && !is(account) {
		return nil, nil
	}
	return account, err
}

func (c *accountTokens) fill(ctx context.Context, secret *corev1.Secret, account *corev1.ServiceAccount) error {
	filled, err := c.filled(secret, account)
	if err != nil || filled == nil {
		return err
	}
	_, err = c.client.CoreV1().Secrets(secret.Namespace).Update(ctx, filled, metav1.UpdateOptions{})
	return err
}

// filled is the Secret with what it lacks; nil if it lacks nothing. A token that is there stays, whatever it is.
func (c *accountTokens) filled(secret *corev1.Secret, account *corev1.ServiceAccount) (*corev1.Secret, error) {
	needs := map[string][]byte{}
	if len(c.rootCA) > 0 && !bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], c.rootCA) {
		needs[corev1.ServiceAccountRootCAKey] = c.rootCA
	}
	if len(secret.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		needs[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	}
	if len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := c.sign(account, secret)
		if err != nil {
			return nil, err
		}
		needs[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	if len(needs) == 0 {
		return nil, nil
	}
	next := secret.DeepCopy()
	if next.Data == nil {
		next.Data = map[string][]byte{}
	}
	for key, value := range needs {
		next.Data[key] = value
	}
	next.Annotations[corev1.ServiceAccountNameKey], next.Annotations[corev1.ServiceAccountUIDKey] = account.Name, string(account.UID)
	return next, nil
}

// forget takes a Secret that is gone off the list of its account. Whether it is on it the API server says: this program may not have
// heard of that yet, and nothing would come back to it later.
func (c *accountTokens) forget(ctx context.Context, namespace, name, accountName string) error {
	refersTo := func(ref corev1.ObjectReference) bool { return ref.Name == name }
	account, err := c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, accountName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && !slices.ContainsFunc(account.Secrets, refersTo) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the service account %s/%s: %w", namespace, accountName, err)
	}
	account.Secrets = slices.DeleteFunc(account.Secrets, refersTo)
	_, err = c.client.CoreV1().ServiceAccounts(namespace).Update(ctx, account, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update the service account %s/%s: %w", namespace, accountName, err)
	}
	return nil
}
