package controller

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// TestClaimOfVanished promises that what is gone when it is to be adopted or released is nobody's, and no error.
func TestClaimOfVanished(t *testing.T) {
	owner := webSet(1)
	owner.UID = "web"
	ref := *metav1.NewControllerRef(owner, replicaSetKind)
	orphan, vanished, released := aPod("orphan"), aPod("vanished"), aPod("released")
	orphan.Labels, vanished.Labels = labels.Set{"app": "web"}, labels.Set{"app": "web"}
	released.OwnerReferences = []metav1.OwnerReference{ref}
	alive := func(context.Context) error { return nil }
	patch := func(_ context.Context, name string, _ types.PatchType, _ []byte) error {
		if name != "orphan" {
			return apierrors.NewNotFound(corev1.Resource("pods"), name)
		}
		return nil
	}
	selector := labels.SelectorFromSet(labels.Set{"app": "web"})
	mine, err := claim(t.Context(), owner, ref, selector, []*corev1.Pod{vanished, released, orphan}, alive, patch)
	if err != nil || len(mine) != 1 || mine[0] != orphan {
		t.Errorf("claimed %v, error %v; want the orphan alone", mine, err)
	}
}
