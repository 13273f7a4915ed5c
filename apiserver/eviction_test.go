package apiserver

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const budgetsPath = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"

// createBudget makes a budget for pods of app=web whose controller has counted: so many are healthy of those wanted.
func (s *running) createBudget(t testing.TB, name, spec string, healthy, desired, allowed int) {
	t.Helper()
	s.do(t, "POST", budgetsPath, `{"metadata":{"name":"`+name+`"},"spec":{"selector":{"matchLabels":{"app":"web"}}`+spec+`}}`).want(t, 201)
	s.do(t, "PATCH", budgetsPath+"/"+name+"/status", fmt.Sprintf(`{"status":{"observedGeneration":1,"currentHealthy":%d,"desiredHealthy":%d,"disruptionsAllowed":%d,"expectedPods":%d}}`,
		healthy, desired, allowed, healthy), merge...).want(t, 200)
}

func (s *running) budget(t testing.TB, name string) policyv1.PodDisruptionBudgetStatus {
	t.Helper()
	return parse[policyv1.PodDisruptionBudget](t, s.do(t, "GET", budgetsPath+"/"+name, "").want(t, 200)).Status
}

// runPod makes a pod that runs on a node, ready or not.
func (s *running) runPod(t testing.TB, name, ready string) {
	t.Helper()
	s.createPod(t, name)
	s.bind(t, name, "n1").want(t, 201)
	s.do(t, "PATCH", podsPath+"/"+name+"/status", `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"`+ready+`"}]}}`, merge...).want(t, 200)
}

func (s *running) evictPod(t testing.TB, name, options, query string) answer {
	t.Helper()
	return s.do(t, "POST", podsPath+"/"+name+"/eviction"+query, `{"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"`+name+`"}`+options+`}`)
}

// stays fails the test if the pod is on its way out.
func (s *running) stays(t testing.TB, name string) {
	t.Helper()
	if p := s.pod(t, name); p.DeletionTimestamp != nil {
		t.Errorf("pod %s is being deleted", name)
	}
}

// An evicted pod ends as a deleted one does, and says why.
func TestEviction(t *testing.T) {
	s := start(t)
	s.runPod(t, "p", "True")
	s.evictPod(t, "p", "", "?dryRun=All").want(t, 201)
	s.evictPod(t, "p", `,"deleteOptions":{"dryRun":["All"]}`, "").want(t, 201)
	s.stays(t, "p")
	s.evictPod(t, "p", `,"deleteOptions":{"preconditions":{"uid":"another"}}`, "").refused(t, 409, metav1.StatusReasonConflict, "the UID in the precondition (another)")
	s.evictPod(t, "p", `,"deleteOptions":{"preconditions":{"resourceVersion":"1"}}`, "").refused(t, 409, metav1.StatusReasonConflict, "the ResourceVersion in the precondition (1)")
	s.do(t, "POST", podsPath+"/p/eviction", `{"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"q"}}`).
		refused(t, 400, metav1.StatusReasonBadRequest, "name in URL does not match name in Eviction object")
	s.do(t, "POST", podsPath+"/p/eviction?dryRun=All", `{"kind":"Eviction","apiVersion":"policy/v1beta1","metadata":{"name":"p"}}`).want(t, 201)
	s.do(t, "POST", podsPath+"/p/eviction", `{"kind":"Eviction","apiVersion":"policy/v2","metadata":{"name":"p"}}`).want(t, 400)
	s.evictPod(t, "none", "", "").refused(t, 404, metav1.StatusReasonNotFound, `pods "none" not found`)
	s.stays(t, "p")

	a := s.evictPod(t, "p", `,"deleteOptions":{"gracePeriodSeconds":7}`, "").want(t, 201)
	if status := parse[metav1.Status](t, a); status.Status != metav1.StatusSuccess {
		t.Errorf("the answer is %s, want a Status of success", a.body)
	}
	p := s.pod(t, "p")
	i := len(p.Status.Conditions) - 1
	if c := p.Status.Conditions[i]; c.Type != corev1.DisruptionTarget || c.Status != corev1.ConditionTrue || c.Reason != "EvictionByEvictionAPI" || c.Message != "Eviction API: evicting" {
		t.Errorf("the evicted pod's last condition is %+v, want DisruptionTarget", c)
	}
	if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 7 {
		t.Errorf("the evicted pod's deletion is %v with grace %v, want one of 7 s", p.DeletionTimestamp, p.DeletionGracePeriodSeconds)
	}
}

// A budget pays for each pod, and remembers whom it has let go; a dry run costs nothing.
func TestEvictionSpendsTheBudget(t *testing.T) {
	s := start(t)
	s.runPod(t, "a", "True")
	s.runPod(t, "b", "True")
	s.createBudget(t, "web", `,"minAvailable":1`, 2, 1, 1)
	s.evictPod(t, "a", "", "?dryRun=All").want(t, 201)
	s.evictPod(t, "a", `,"deleteOptions":{"preconditions":{"uid":"another"}}`, "").want(t, 409)
	if b := s.budget(t, "web"); b.DisruptionsAllowed != 1 || len(b.DisruptedPods) != 0 {
		t.Errorf("what was not done has cost: %+v", b)
	}
	s.evictPod(t, "a", "", "").want(t, 201)
	b := s.budget(t, "web")
	if _, told := b.DisruptedPods["a"]; b.DisruptionsAllowed != 0 || !told || len(b.Conditions) != 1 || b.Conditions[0].Reason != policyv1.InsufficientPodsReason {
		t.Errorf("after an eviction the budget is %+v, want nothing allowed and a among the disrupted", b)
	}
	s.do(t, "PATCH", budgetsPath+"/web/status", `{"status":{"currentHealthy":1}}`, merge...).want(t, 200) // As its controller would.
	r := s.evictPod(t, "b", "", "")
	r.refused(t, 429, metav1.StatusReasonTooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
	want := metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: "The disruption budget web needs 1 healthy pods and has 1 currently"}
	if causes := parse[metav1.Status](t, r).Details.Causes; len(causes) != 1 || causes[0] != want || r.header.Get("Retry-After") != "" {
		t.Errorf("causes %+v and Retry-After %q, want %+v and none", causes, r.header.Get("Retry-After"), want)
	}
	s.evictPod(t, "b", "", "?dryRun=All").want(t, 429)
	s.stays(t, "b")
	s.evictPod(t, "a", "", "").want(t, 201) // It goes already.
}

// Nobody is asked about pods that serve nobody.
func TestEvictionWithoutAsking(t *testing.T) {
	s := start(t)
	s.createBudget(t, "web", `,"minAvailable":5`, 1, 5, 0)
	s.createPod(t, "pending")
	s.runPod(t, "done", "False")
	s.do(t, "PATCH", podsPath+"/done/status", `{"status":{"phase":"Succeeded"}}`, merge...).want(t, 200)
	for _, name := range []string{"pending", "done"} {
		s.evictPod(t, name, "", "").want(t, 201)
		s.do(t, "GET", podsPath+"/"+name, "").want(t, 404)
	}
	s.do(t, "POST", podsPath, strings.Replace(podJSON("other"), `"web"`, `"db"`, 1)).want(t, 201)
	s.bind(t, "other", "n1").want(t, 201)
	s.do(t, "PATCH", podsPath+"/other/status", `{"status":{"phase":"Running"}}`, merge...).want(t, 200)
	s.evictPod(t, "other", "", "").want(t, 201)
	if s.pod(t, "other").DeletionTimestamp == nil {
		t.Error("a pod without a budget was not evicted")
	}
}

// https://kubernetes.io/docs/tasks/run-application/configure-pdb/#unhealthy-pod-eviction-policy
func TestUnhealthyPodEvictionPolicy(t *testing.T) {
	for _, tc := range []struct {
		policy                    string
		healthy, desired, allowed int
		code                      int
	}{
		{"", 2, 2, 0, 201}, // Enough are healthy without it.
		{"", 1, 2, 0, 429},
		{"", 0, 0, 0, 429}, // Nothing was counted.
		{`,"unhealthyPodEvictionPolicy":"IfHealthyBudget"`, 1, 2, 0, 429},
		{`,"unhealthyPodEvictionPolicy":"AlwaysAllow"`, 1, 2, 0, 201},
	} {
		s := start(t)
		s.runPod(t, "sick", "False")
		s.createBudget(t, "web", `,"minAvailable":2`+tc.policy, tc.healthy, tc.desired, tc.allowed)
		s.evictPod(t, "sick", "", "").want(t, tc.code)
		if b := s.budget(t, "web"); len(b.DisruptedPods) != 0 {
			t.Errorf("%+v: the budget paid for a pod that it does not count: %+v", tc, b)
		}
	}
}

// Budgets that cannot answer.
func TestBudgetsThatCannotAnswer(t *testing.T) {
	s := start(t)
	s.runPod(t, "p", "True")
	s.createBudget(t, "web", `,"minAvailable":1`, 2, 1, 1)
	s.do(t, "PATCH", budgetsPath+"/web", `{"spec":{"minAvailable":2}}`, merge...).want(t, 200)
	r := s.evictPod(t, "p", "", "")
	r.refused(t, 429, metav1.StatusReasonTooManyRequests)
	if cause := parse[metav1.Status](t, r).Details.Causes[0].Message; cause != "The disruption budget web is still being processed by the server." || r.header.Get("Retry-After") != "10" {
		t.Errorf("cause %q and Retry-After %q", cause, r.header.Get("Retry-After"))
	}
	s.do(t, "PATCH", budgetsPath+"/web/status", `{"status":{"observedGeneration":2,"disruptionsAllowed":0,"conditions":[{"type":"DisruptionAllowed","status":"False","reason":"SyncFailed","message":"m","lastTransitionTime":"2020-01-01T00:00:00Z"}]}}`, merge...).want(t, 200)
	if cause := parse[metav1.Status](t, s.evictPod(t, "p", "", "").want(t, 429)).Details.Causes[0].Message; cause != "The disruption budget web does not allow evicting pods currently because it failed sync: m" {
		t.Errorf("cause %q", cause)
	}
	s.do(t, "PATCH", budgetsPath+"/web/status", `{"status":{"disruptionsAllowed":-1}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid, "status.disruptionsAllowed: Invalid value: -1")
	s.createBudget(t, "second", `,"minAvailable":1`, 2, 1, 1)
	s.evictPod(t, "p", "", "").refused(t, 500, metav1.StatusReasonInternalError, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
	s.stays(t, "p")
}

// However many ask at once, a budget is never overspent.
func TestEvictionsAtOnce(t *testing.T) {
	s := start(t)
	const pods, allowed = 12, 5
	for i := range pods {
		s.runPod(t, fmt.Sprint("p", i), "True")
	}
	s.createBudget(t, "web", `,"maxUnavailable":5`, pods, pods-allowed, allowed)
	var gone, refused atomic.Int32
	var all sync.WaitGroup
	for i := range pods {
		all.Go(func() {
			switch a := s.evictPod(t, fmt.Sprint("p", i), "", ""); a.code {
			case 201:
				gone.Add(1)
			case 429:
				refused.Add(1)
			default:
				t.Errorf("an eviction is answered %d: %s", a.code, a.body)
			}
		})
	}
	all.Wait()
	b := s.budget(t, "web")
	if gone.Load() != allowed || refused.Load() != pods-allowed || b.DisruptionsAllowed != 0 || len(b.DisruptedPods) != allowed {
		t.Errorf("%d gone and %d refused, the budget says %+v; want %d gone", gone.Load(), refused.Load(), b, allowed)
	}
}
