package controller

import (
	"fmt"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func tokenSecret(name, account string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Annotations: map[string]string{corev1.ServiceAccountNameKey: account}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
}

// TestAccountTokens promises that a Secret of this type gets a token that is accepted, keeps what belongs into it, and ends
// with its ServiceAccount; and that its end is noted there.
func TestAccountTokens(t *testing.T) {
	c := startCluster(t)
	accounts, secrets := c.client.CoreV1().ServiceAccounts("default"), c.client.CoreV1().Secrets("default")
	account, err := accounts.Create(c.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	c.must(err)
	_, err = secrets.Create(c.ctx, tokenSecret("filled", "robot"), metav1.CreateOptions{})
	c.must(err)
	var secret *corev1.Secret
	filled := func() string {
		secret, err = secrets.Get(c.ctx, "filled", metav1.GetOptions{})
		c.must(err)
		if len(secret.Data["token"]) == 0 || string(secret.Data["namespace"]) != "default" || string(secret.Data["ca.crt"]) != rootCA ||
			secret.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID) {
			return fmt.Sprintf("it is %v", secret)
		}
		return ""
	}
	c.eventually("the Secret is filled", filled)
	review, err := c.client.AuthenticationV1().TokenReviews().Create(c.ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: string(secret.Data["token"])},
	}, metav1.CreateOptions{})
	c.must(err)
	if !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:default:robot" {
		t.Errorf("with the token one is %+v", review.Status)
	}

	token := string(secret.Data["token"])
	_, err = secrets.Patch(c.ctx, "filled", "application/merge-patch+json", []byte(`{"data":{"ca.crt":"eA==","namespace":null}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("the Secret is mended", filled)
	if string(secret.Data["token"]) != token {
		t.Error("a token that was there was replaced")
	}

	_, err = accounts.Patch(c.ctx, "robot", "application/merge-patch+json", []byte(`{"secrets":[{"name":"other"},{"name":"filled"}]}`), metav1.PatchOptions{})
	c.must(err)
	c.must(secrets.Delete(c.ctx, "filled", metav1.DeleteOptions{}))
	c.eventually("the account forgets the Secret", func() string {
		account, err := accounts.Get(c.ctx, "robot", metav1.GetOptions{})
		c.must(err)
		if len(account.Secrets) != 1 || account.Secrets[0].Name != "other" {
			return fmt.Sprintf("it has %v", account.Secrets)
		}
		return ""
	})

	gone := func(name string) func() string {
		return func() string {
			if _, err := secrets.Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("reading it gives %v", err)
			}
			return ""
		}
	}
	_, err = secrets.Create(c.ctx, tokenSecret("of-nobody", "nobody"), metav1.CreateOptions{})
	c.must(err)
	c.eventually("a Secret of no account is deleted", gone("of-nobody"))
	_, err = secrets.Create(c.ctx, tokenSecret("last", "robot"), metav1.CreateOptions{})
	c.must(err)
	c.must(accounts.Delete(c.ctx, "robot", metav1.DeleteOptions{}))
	c.eventually("a Secret is deleted with its account", gone("last"))
}

// TestImmutableTokenSecret promises that a Secret that cannot be written is not tried again and again.
func TestImmutableTokenSecret(t *testing.T) {
	c := startCluster(t)
	_, err := c.client.CoreV1().ServiceAccounts("default").Create(c.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	c.must(err)
	fixed, immutable := tokenSecret("fixed", "robot"), true
	fixed.Immutable = &immutable
	before, err := c.client.CoreV1().Secrets("default").Create(c.ctx, fixed, metav1.CreateOptions{})
	c.must(err)
	_, err = c.client.CoreV1().Secrets("default").Create(c.ctx, tokenSecret("filled", "robot"), metav1.CreateOptions{})
	c.must(err)
	c.eventually("the one after it is filled", func() string {
		secret, err := c.client.CoreV1().Secrets("default").Get(c.ctx, "filled", metav1.GetOptions{})
		c.must(err)
		if len(secret.Data["token"]) == 0 {
			return "it has no token"
		}
		return ""
	})
	after, err := c.client.CoreV1().Secrets("default").Get(c.ctx, "fixed", metav1.GetOptions{})
	c.must(err)
	if after.ResourceVersion != before.ResourceVersion {
		t.Errorf("an immutable Secret was written: %v", after)
	}
}
