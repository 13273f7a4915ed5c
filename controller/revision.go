package controller

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/dump"
)

// Annotations by which a Deployment and its ReplicaSets know each other's history and size; kubectl reads them.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredReplicasAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxReplicasAnnotation     = "deployment.kubernetes.io/max-replicas"
)

// historyLength is how many characters the annotation with the history has at most.
const historyLength = 2000

// notCopied are the annotations of a Deployment that its ReplicaSets do not inherit.
func notCopied(key string) bool {
	switch key {
	case corev1.LastAppliedConfigAnnotation, revisionAnnotation, revisionHistoryAnnotation,
		desiredReplicasAnnotation, maxReplicasAnnotation, appsv1.DeprecatedRollbackTo:
		return true
	}
	return false
}

// templateHash is the value of the label pod-template-hash: FNV-32a over the template as Go's values print, then over the
// number of collisions so far. It is Kubernetes' own function, down to the alphabet, but it depends on the fields that the
// Go type has, and so on the version: nothing may ever compare two hashes to learn whether two templates are equal.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*template))
	if collisions != nil {
		var count [8]byte
		binary.LittleEndian.PutUint32(count[:], uint32(*collisions))
		h.Write(count[:])
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// sameTemplate says whether two templates are equal but for the hash label that a ReplicaSet's has in addition.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

// splitSets finds the ReplicaSet with d's present template, the oldest if there are several, and returns the others apart,
// oldest first.
func splitSets(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	sets = slices.Clone(sets)
	slices.SortStableFunc(sets, byAge)
	for _, rs := range sets {
		if current == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			current = rs
		} else {
			old = append(old, rs)
		}
	}
	return current, old
}

// byAge sorts the oldest first.
func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// newReplicaSet makes the ReplicaSet for d's present template, with no replicas.
func newReplicaSet(d *appsv1.Deployment, revision int64) *appsv1.ReplicaSet {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = maps.Clone(template.Labels)
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            setName(d.Name, hash),
			Namespace:       d.Namespace,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, deploymentKind)},
			Labels:          maps.Clone(template.Labels),
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        new(int32),
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        metav1.CloneSelectorAndAddLabel(d.Spec.Selector, appsv1.DefaultDeploymentUniqueLabelKey, hash),
			Template:        template,
		},
	}
	return withRevision(d, rs, revision)
}

// setName joins a Deployment's name and a template's hash. Of a name that would become too long the end is left out: its
// ReplicaSets are still its own by their owner references, and the hash keeps them apart.
func setName(deployment, hash string) string {
	room := validation.DNS1123SubdomainMaxLength - len("-") - len(hash)
	if len(deployment) > room {
		deployment = strings.TrimRight(deployment[:room], ".") // No hyphen may follow a dot.
	}
	return deployment + "-" + hash
}

// withRevision returns a copy of rs with d's annotations and minReadySeconds, and with the given revision if it has a
// lower one; nil if rs has all that. A revision that rs had before (it is rolled back to) is kept as its history.
func withRevision(d *appsv1.Deployment, rs *appsv1.ReplicaSet, revision int64) *appsv1.ReplicaSet {
	want := rs.DeepCopy()
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	for key, value := range d.Annotations {
		if !notCopied(key) {
			want.Annotations[key] = value
		}
	}
	if before, had := want.Annotations[revisionAnnotation]; revisionOf(rs) < revision {
		want.Annotations[revisionAnnotation] = strconv.FormatInt(revision, 10)
		if had {
			want.Annotations[revisionHistoryAnnotation] = longer(want.Annotations[revisionHistoryAnnotation], before)
		}
	}
	want.Spec.MinReadySeconds = d.Spec.MinReadySeconds
	if equality.Semantic.DeepEqual(want, rs) {
		return nil
	}
	return want
}

// longer is a history of revisions with one more. The oldest are left out where it would be too long.
func longer(history, revision string) string {
	all := strings.TrimPrefix(history+","+revision, ",")
	for len(all) > historyLength {
		_, rest, more := strings.Cut(all, ",")
		if !more {
			return history // The revision alone is too long; somebody has written nonsense.
		}
		all = rest
	}
	return all
}

// revisionOf is the object's revision; 0 if it has none that can be read.
func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func maxRevision(sets []*appsv1.ReplicaSet) int64 {
	var most int64
	for _, rs := range sets {
		most = max(most, revisionOf(rs))
	}
	return most
}

// beyondHistory are the old ReplicaSets that d's revisionHistoryLimit leaves no room for and that have come to rest, the
// lowest revision first.
func beyondHistory(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	if d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	kept := slices.DeleteFunc(slices.Clone(old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	excess := len(kept) - int(*d.Spec.RevisionHistoryLimit)
	if excess <= 0 {
		return nil
	}
	slices.SortStableFunc(kept, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	return slices.DeleteFunc(kept[:excess], func(rs *appsv1.ReplicaSet) bool {
		return rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration
	})
}
