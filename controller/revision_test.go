package controller

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: image}}},
	}
}

// TestTemplateHash promises names in Kubernetes' alphabet, the same for the same template, others for another template or
// after a collision.
func TestTemplateHash(t *testing.T) {
	nginx, apache := template("nginx"), template("apache")
	first := templateHash(&nginx, nil)
	if again := templateHash(nginx.DeepCopy(), nil); again != first {
		t.Errorf("the hash of a copy is %s, of the template %s", again, first)
	}
	if !regexp.MustCompile(`^[bcdfghjklmnpqrstvwxz2456789]{1,10}$`).MatchString(first) {
		t.Errorf("hash %q has characters that Kubernetes does not use", first)
	}
	seen := map[string]string{first: "nginx"}
	one, two := int32(1), int32(2)
	for what, hash := range map[string]string{
		"apache": templateHash(&apache, nil), "one collision": templateHash(&nginx, &one), "two collisions": templateHash(&nginx, &two),
	} {
		if other, there := seen[hash]; there {
			t.Errorf("%s and %s have the same hash %s", what, other, hash)
		}
		seen[hash] = what
	}
}

// TestSetName promises a valid name however long the Deployment's is.
func TestSetName(t *testing.T) {
	long := strings.Repeat("a", 253)
	dotted := strings.Repeat("a", 241) + ".b" + strings.Repeat("c", 10)
	for deployment, want := range map[string]string{
		"web":      "web-hash567890",
		long[:242]: long[:242] + "-hash567890",
		long:       long[:242] + "-hash567890",
		dotted:     dotted[:241] + "-hash567890",
	} {
		if got := setName(deployment, "hash567890"); got != want || len(validation.IsDNS1123Subdomain(got)) > 0 {
			t.Errorf("%s gets %s, want %s", deployment, got, want)
		}
	}
}

// TestWithRevision promises that a ReplicaSet gets a higher revision but never a lower one, and keeps the one it had.
func TestWithRevision(t *testing.T) {
	d := sized(1, "1", "0")
	d.Annotations = map[string]string{
		"kubernetes.io/change-cause": "for fun", revisionAnnotation: "7", corev1.LastAppliedConfigAnnotation: "{}",
	}
	tests := []struct {
		name     string
		has      map[string]string
		revision int64
		want     map[string]string // Nil: no change.
	}{
		{"a new one", nil, 1, map[string]string{"kubernetes.io/change-cause": "for fun", revisionAnnotation: "1"}},
		{"up to date", map[string]string{"kubernetes.io/change-cause": "for fun", revisionAnnotation: "3"}, 3, nil},
		{"higher than it need be", map[string]string{"kubernetes.io/change-cause": "for fun", revisionAnnotation: "10"}, 9, nil},
		{"rolled back to", map[string]string{revisionAnnotation: "9"}, 10, map[string]string{
			"kubernetes.io/change-cause": "for fun", revisionAnnotation: "10", revisionHistoryAnnotation: "9"}},
		{"rolled back to again", map[string]string{revisionAnnotation: "3", revisionHistoryAnnotation: "1"}, 5, map[string]string{
			"kubernetes.io/change-cause": "for fun", revisionAnnotation: "5", revisionHistoryAnnotation: "1,3"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			rs := set(1, 1, 1)
			rs.Annotations = tc.has
			var got map[string]string
			if changed := withRevision(d, rs, tc.revision); changed != nil {
				got = changed.Annotations
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("annotations (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLongHistory promises that a history does not grow without end and keeps the latest revisions.
func TestLongHistory(t *testing.T) {
	history := ""
	for i := range 1000 {
		history = longer(history, strconv.Itoa(i+1))
	}
	if len(history) > 2000 || !strings.HasPrefix(history, "5") || !strings.HasSuffix(history, ",998,999,1000") {
		t.Errorf("history of %d characters: %s", len(history), history)
	}
	if got := longer("1,2", strings.Repeat("3", 2001)); got != "1,2" {
		t.Errorf("a revision that is too long alone gives %s", got)
	}
}

// TestSplitSets promises that the set with the present template is found by the template, whatever its hash label says.
func TestSplitSets(t *testing.T) {
	d := sized(1, "1", "0")
	d.Spec.Template = template("nginx")
	var sets []*appsv1.ReplicaSet
	for i, image := range []string{"apache", "nginx", "nginx"} {
		rs := set(i+1, 1, 1)
		rs.Spec.Template = template(image)
		rs.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "by another version"
		sets = append(sets, rs)
	}
	current, old := splitSets(d, []*appsv1.ReplicaSet{sets[2], sets[1], sets[0]})
	if current != sets[1] {
		t.Errorf("the current set is %v, want the older of the two with the template, web-2", current)
	}
	if len(old) != 2 || old[0] != sets[0] || old[1] != sets[2] {
		t.Errorf("the old sets are %v, want web-1 and web-3", old)
	}
}

// TestBeyondHistory promises that the lowest revisions go first and that none goes that still has pods.
func TestBeyondHistory(t *testing.T) {
	d := sized(1, "1", "0")
	limit := int32(1)
	d.Spec.RevisionHistoryLimit = &limit
	var old []*appsv1.ReplicaSet
	for i, revision := range []string{"10", "9", "2"} {
		rs := set(i+1, 0, 0)
		rs.Annotations = map[string]string{revisionAnnotation: revision}
		old = append(old, rs)
	}
	names := func(sets []*appsv1.ReplicaSet) (out []string) {
		for _, rs := range sets {
			out = append(out, rs.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"web-3", "web-2"}, names(beyondHistory(d, old))); diff != "" {
		t.Errorf("to be deleted (-want +got):\n%s", diff)
	}
	old[2].Status.Replicas = 1
	if diff := cmp.Diff([]string{"web-2"}, names(beyondHistory(d, old))); diff != "" {
		t.Errorf("to be deleted while web-3 has a pod (-want +got):\n%s", diff)
	}
}
