package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/apps/poddisruptionbudget"
)

// An eviction is the polite deletion of a pod: the budget that guards the pod is asked first, and pays for it. `kubectl drain`
// empties a node this way. https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/

var evictionKind = policyv1.SchemeGroupVersion.WithKind("Eviction")

const budgetsResource = "poddisruptionbudgets.policy"

// maxDisrupted bounds the evictions that the disruption controller has not seen yet.
const maxDisrupted = 2000

func (h *resource) evict(w http.ResponseWriter, r *http.Request) error {
	o, err := parseWrite(r, nil)
	if err != nil {
		return err
	}
	e, err := readEviction(r, o.validation)
	if err != nil {
		return err
	}
	if e.Name != chi.URLParam(r, "name") {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if err := sameNamespace(e, chi.URLParam(r, "namespace")); err != nil {
		return err
	}
	options, err := evictionOptions(e.DeleteOptions, r.URL.Query()["dryRun"])
	if err != nil {
		return err
	}
	if err := h.server.evict(r.Context(), h.shelf, h.key(r), options); err != nil {
		return err
	}
	o.validation.send(w)
	return respondStatus(w, r, http.StatusCreated, success(http.StatusCreated))
}

// readEviction reads an eviction of either version: policy/v1beta1 is gone, but for this kind.
func readEviction(r *http.Request, v *validation) (*policyv1.Eviction, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	media := r.Header.Get("Content-Type")
	obj, err := decode(body, media, evictionKind, v)
	if err == nil {
		return obj.(*policyv1.Eviction), nil
	}
	older, olderErr := decode(body, media, policyv1beta1.SchemeGroupVersion.WithKind(evictionKind.Kind), v)
	if olderErr != nil {
		return nil, err
	}
	e := older.(*policyv1beta1.Eviction)
	return &policyv1.Eviction{ObjectMeta: e.ObjectMeta, DeleteOptions: e.DeleteOptions}, nil
}

// evictionOptions are the options of the deletion in an eviction. Whether it is a dry run may stand in either place.
func evictionOptions(o *metav1.DeleteOptions, dryRun []string) (*metav1.DeleteOptions, error) {
	if o == nil {
		o = &metav1.DeleteOptions{}
	}
	switch {
	case len(o.DryRun) == 0:
		o.DryRun = dryRun
	case len(dryRun) > 0 && !reflect.DeepEqual(dryRun, o.DryRun):
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Non-matching dry-run options in request and content: %v and %v", dryRun, o.DryRun))
	}
	return o, checkDeleteOptions(o)
}

// evict deletes a pod if its budget allows.
func (s *Server) evict(ctx context.Context, sh *shelf, key string, o *metav1.DeleteOptions) error {
	for try := 1; ; try++ {
		it := sh.get(key)
		if it == nil {
			return notFound(sh.resource, key)
		}
		d := deletion{resource: sh.resource, options: o, now: metav1.Now().Rfc3339Copy(), evicts: true}
		if err := d.check(it); err != nil {
			return err
		}
		budgets := s.budgetsOf(it.obj.(*corev1.Pod))
		pinned, err := s.askBudget(ctx, it, budgets, o)
		if err != nil {
			return err
		}
		if pinned {
			d.options = pin(o, it.meta().GetResourceVersion())
		}
		_, _, err = s.end(ctx, sh, key, d)
		switch {
		case !apierrors.IsConflict(err) || !pinned || pinsVersion(o):
			return err
		case guarded(it.obj.(*corev1.Pod)):
			return beingProcessed(budgets[0].Name)
		case try == maxTries: // The pod keeps changing: it may be getting ready, and then its budget is to be asked.
			return err
		}
	}
}

// askBudget says whether the pod may go, and takes that from its budget. pinned tells that it may go only as it is now: once
// it gets ready, the answer would be another.
func (s *Server) askBudget(ctx context.Context, it *item, budgets []*policyv1.PodDisruptionBudget, o *metav1.DeleteOptions) (pinned bool, err error) {
	pod := it.obj.(*corev1.Pod)
	switch {
	case !guarded(pod):
		return pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodPending, nil
	case len(budgets) == 0:
		return false, nil
	case len(budgets) > 1:
		return false, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	case spares(budgets[0], pod):
		return true, nil
	}
	_, err = s.modify(ctx, s.shelf(budgetsResource), objectKey(pod.Namespace, budgets[0].Name), "status", isDry(o.DryRun), func(old runtime.Object) (runtime.Object, error) {
		return spend(old.(*policyv1.PodDisruptionBudget), pod.Name, metav1.Now())
	})
	return false, err
}

// guarded says whether a budget has a say about the pod: one that has not begun, has ended or is going anyway serves nobody.
func guarded(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed:
		return false
	}
	return pod.DeletionTimestamp == nil
}

// spares says whether the budget lets the pod go without paying, because the pod does not count as healthy.
// https://kubernetes.io/docs/tasks/run-application/configure-pdb/#unhealthy-pod-eviction-policy
func spares(budget *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	if policy := budget.Spec.UnhealthyPodEvictionPolicy; policy != nil && *policy == policyv1.AlwaysAllow {
		return true
	}
	return budget.Status.DesiredHealthy > 0 && budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy
}

// spend is the budget after the eviction of a pod, or why it has nothing to give. The pod's name stays in it until the
// disruption controller has seen the pod go, so that the pod is not counted as healthy meanwhile.
func spend(old *policyv1.PodDisruptionBudget, pod string, now metav1.Time) (*policyv1.PodDisruptionBudget, error) {
	switch s := &old.Status; {
	case s.ObservedGeneration < old.Generation:
		return nil, beingProcessed(old.Name)
	case s.DisruptionsAllowed < 0:
		return nil, apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), old.Name, errors.New("pdb disruptions allowed is negative"))
	case len(s.DisruptedPods) > maxDisrupted:
		return nil, apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), old.Name,
			errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case s.DisruptionsAllowed == 0:
		return nil, overBudget(0, whyNone(old))
	}
	budget := old.DeepCopy()
	budget.Status.DisruptionsAllowed--
	if budget.Status.DisruptionsAllowed == 0 {
		poddisruptionbudget.UpdateDisruptionAllowedCondition(budget)
	}
	if budget.Status.DisruptedPods == nil {
		budget.Status.DisruptedPods = map[string]metav1.Time{}
	}
	budget.Status.DisruptedPods[pod] = now
	return budget, nil
}

// whyNone says why a budget allows no disruption.
func whyNone(budget *policyv1.PodDisruptionBudget) string {
	c := meta.FindStatusCondition(budget.Status.Conditions, policyv1.DisruptionAllowedCondition)
	told := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	switch s := &budget.Status; {
	case told && c.Reason == policyv1.SyncFailedReason: // Then the numbers are not to be trusted.
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", budget.Name, c.Message)
	case s.CurrentHealthy <= s.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", budget.Name, s.DesiredHealthy, s.CurrentHealthy)
	case told:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", budget.Name, c.Reason, c.Message)
	}
	return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", budget.Name)
}

// beingProcessed asks to try again when the controller has looked at a budget that has changed.
func beingProcessed(budget string) error {
	return overBudget(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget))
}

func overBudget(retryAfter int, why string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: why}}
	return err
}

// budgetsOf finds the budgets that guard a pod.
func (s *Server) budgetsOf(pod *corev1.Pod) []*policyv1.PodDisruptionBudget {
	sh := s.shelf(budgetsResource)
	within := selectAll(sh.resource)
	within.namespace = pod.Namespace
	var found []*policyv1.PodDisruptionBudget
	for _, it := range sh.state(s.cache).items(within) {
		budget := it.obj.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			found = append(found, budget)
		}
	}
	return found
}

func pinsVersion(o *metav1.DeleteOptions) bool {
	return o.Preconditions != nil && o.Preconditions.ResourceVersion != nil
}

// pin is the same deletion of the object in this version only, or in the one that the client has named.
func pin(o *metav1.DeleteOptions, version string) *metav1.DeleteOptions {
	if pinsVersion(o) {
		return o
	}
	o = o.DeepCopy()
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	o.Preconditions.ResourceVersion = &version
	return o
}

// disrupt marks a pod that is evicted, for those who look at how it ended: a Job's failure policy, for one.
// https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
func disrupt(pod *corev1.Pod, now metav1.Time) {
	setPodCondition(&pod.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation, LastTransitionTime: now,
		Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
	})
}

// setPodCondition puts a condition in the place of the one of its type; one that says the same keeps its time.
func setPodCondition(status *corev1.PodStatus, c corev1.PodCondition) {
	for i := range status.Conditions {
		if old := &status.Conditions[i]; old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	status.Conditions = append(status.Conditions, c)
}
