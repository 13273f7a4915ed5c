package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a pod says by label keys is said by the selectors beside them once it is made: the scheduler knows no keys.
func TestLabelKeysBecomeSelectors(t *testing.T) {
	const keys = "topologyKey: z, labelSelector: {matchLabels: {app: web}}, matchLabelKeys: [hash, none]"
	r := find(t, "Pod")
	pod := parse(t, r, strings.Replace(aPod(
		"topologySpreadConstraints: [{maxSkew: 1, whenUnsatisfiable: DoNotSchedule, "+keys+"}], affinity: {podAffinity: {"+
			"requiredDuringSchedulingIgnoredDuringExecution: [{"+keys+", mismatchLabelKeys: [tenant]}]}, podAntiAffinity: {"+
			"preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {"+keys+"}}]}}", ""),
		"name: p", "name: p, labels: {app: web, hash: '1', tenant: me}", 1)).(*corev1.Pod)
	r.PrepareCreate(pod)
	a := pod.Spec.Affinity
	for name, s := range map[string]*metav1.LabelSelector{
		"app=web,hash in (1)":                   pod.Spec.TopologySpreadConstraints[0].LabelSelector,
		"app=web,hash in (1),tenant notin (me)": a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector,
		"app=web,hash in (1) of the preferred":  a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].PodAffinityTerm.LabelSelector,
	} {
		want, _, _ := strings.Cut(name, " of ")
		if diff := cmp.Diff(want, metav1.FormatLabelSelector(s)); diff != "" {
			t.Errorf("the selector (-want +got):\n%s", diff)
		}
	}
	if errs := r.Validate(pod); len(errs) > 0 {
		t.Errorf("the pod is refused: %v", errs)
	}
}
