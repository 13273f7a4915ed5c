package scheduler

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
)

// aClaim reads "data class=local size=1Gi bound=disk alone".
func aClaim(words string) *corev1.PersistentVolumeClaim {
	fields := strings.Fields(words)
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fields[0], UID: types.UID(fields[0])}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	for _, field := range fields[1:] {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "class":
			c.Spec.StorageClassName = &value
		case "size":
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(value)
		case "bound":
			bindClaim(c, value)
		case "alone":
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		}
	}
	return c
}

// bindClaim does what the volume controller does last.
func bindClaim(c *corev1.PersistentVolumeClaim, volumeName string) {
	c.Spec.VolumeName = volumeName
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnBindCompleted, "yes")
	c.Status.Phase = corev1.ClaimBound
}

// aVolume reads "disk on=a class=disks size=1Gi".
func aVolume(words string) *corev1.PersistentVolume {
	fields := strings.Fields(words)
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fields[0], UID: types.UID(fields[0])}}
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	v.Status.Phase = corev1.VolumeAvailable
	for _, field := range fields[1:] {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "on":
			v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: []string{value}}},
			}}}}
		case "class":
			v.Spec.StorageClassName = value
		case "size":
			v.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse(value)
		}
	}
	return v
}

func aClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// storageNodes are two nodes and three classes: local makes volumes when they are needed, disks has none but those that there
// are, now makes them at once.
func storageNodes(more ...runtime.Object) []runtime.Object {
	return append(more, aNode("a"), aNode("b"),
		aClass("local", "local.example.com", storagev1.VolumeBindingWaitForFirstConsumer),
		aClass("disks", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer),
		aClass("now", "local.example.com", storagev1.VolumeBindingImmediate))
}

// TestVolumesDecide promises that a pod runs where its volumes are, and the words for it where that is nowhere.
func TestVolumesDecide(t *testing.T) {
	deleted := aClaim("going class=local")
	deleted.DeletionTimestamp, deleted.Finalizers = new(metav1.Now()), []string{"keep"}
	lost := aClaim("lost bound=gone")
	lost.Status.Phase = corev1.ClaimLost
	const none = "0/2 nodes are available: "
	for _, tc := range []struct {
		name, pod string
		want      string // A node, or the message.
		objects   []runtime.Object
	}{
		{"a bound claim", "p claim=data", "b", []runtime.Object{aClaim("data bound=disk"), aVolume("disk on=b")}},
		{"a bound claim on a full node", "p claim=data cpu=9", none + "2 Insufficient cpu.", []runtime.Object{aClaim("data bound=disk"), aVolume("disk on=b")}},
		{"bound claims on two nodes", "p claim=data claim=more", none + "2 node(s) didn't match PersistentVolume's node affinity.",
			[]runtime.Object{aClaim("data bound=disk"), aVolume("disk on=b"), aClaim("more bound=other"), aVolume("other on=a")}},
		{"no claim", "p claim=data", none + `persistentvolumeclaim "data" not found.`, nil},
		{"a claim that is deleted", "p claim=going", none + `persistentvolumeclaim "going" is being deleted.`, []runtime.Object{deleted}},
		{"a claim that is lost", "p claim=lost", none + `persistentvolumeclaim "lost" bound to non-existent persistentvolume "gone".`, []runtime.Object{lost}},
		{"a claim that should be bound by now", "p claim=data", none + "pod has unbound immediate PersistentVolumeClaims.", []runtime.Object{aClaim("data class=now")}},
		{"no volume to be had", "p claim=data", none + "2 node(s) didn't find available persistent volumes to bind.", []runtime.Object{aClaim("data class=disks")}},
		{"a volume too small", "p claim=data", none + "2 node(s) didn't find available persistent volumes to bind.",
			[]runtime.Object{aClaim("data class=disks size=2Gi"), aVolume("disk on=b class=disks")}},
		{"a claim of one pod only", "p claim=data", none + "2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.",
			[]runtime.Object{aClaim("data alone bound=disk"), aVolume("disk"), aPod("other on=a claim=data")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.create(tc.pod)
				if !strings.HasPrefix(tc.want, "0/") {
					w.expectNode("p", tc.want)
					return
				}
				if got := w.pod("p").Status.Conditions; len(got) != 1 || got[0].Message != tc.want {
					w.Errorf("conditions %v, want %q", got, tc.want)
				}
			}, storageNodes(tc.objects...)...)
		})
	}
}

// TestFirstConsumer promises that claims which wait for a pod get volumes on its node, those that are there or new ones, and that
// the pod waits for them.
func TestFirstConsumer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("p claim=data claim=disk", "late claim=tomorrow")
		w.expectNode("p", "")
		v, err := w.client.CoreV1().PersistentVolumes().Get(w.ctx, "large", metav1.GetOptions{})
		if err != nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.Name != "disk" {
			w.Fatalf("the volume on node b is claimed by %+v (%v), want disk", v.Spec.ClaimRef, err)
		}
		claim := w.claim("data")
		if got := claim.Annotations[volume.AnnSelectedNode]; got != "b" {
			w.Fatalf("the node of claim data is %q, want b, where the other volume is", got)
		}
		w.bindClaim("disk", "large")
		w.expectNode("p", "")
		if _, err := w.client.CoreV1().PersistentVolumes().Create(w.ctx, aVolume("made on=b"), metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.bindClaim("data", "made")
		w.expectNode("p", "b")
		if _, err := w.client.CoreV1().PersistentVolumeClaims("default").Create(w.ctx, aClaim("tomorrow class=local"), metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.settle()
		if w.claim("tomorrow").Annotations[volume.AnnSelectedNode] == "" {
			w.Error("a claim that comes after its pod has no node")
		}
	}, storageNodes(aClaim("data class=local"), aClaim("disk class=disks size=2Gi"),
		aVolume("small on=a class=disks"), aVolume("large on=b class=disks size=3Gi"))...)
}

// TestVolumeThatDoesNotCome promises that a pod does not keep its place for ever, nor on a node that its volume cannot be on.
func TestVolumeThatDoesNotCome(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("p claim=data")
		claim := w.claim("data")
		first := claim.Annotations[volume.AnnSelectedNode]
		if err := w.client.CoreV1().Nodes().Delete(w.ctx, first, metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.settle()
		delete(claim.Annotations, volume.AnnSelectedNode)
		if _, err := w.client.CoreV1().PersistentVolumeClaims("default").Update(w.ctx, claim, metav1.UpdateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.settle()
		if got := w.claim("data").Annotations[volume.AnnSelectedNode]; got == first || got == "" {
			w.Errorf("after node %s is gone the claim's node is %q, want the other one", first, got)
		}
		time.Sleep(bindTimeout)
		w.settle()
		want := `running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`
		if got := w.pod("p").Status.Conditions; len(got) != 1 || got[0].Message != want {
			w.Errorf("after %s: %v, want %q", bindTimeout, got, want)
		}
	}, storageNodes(aClaim("data class=local"))...)
}

// TestLatePlaceIsFree promises that a place that a pod had kept in vain goes to the one that was turned away for it.
func TestLatePlaceIsFree(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("big claim=data cpu=800m")
		w.create("small cpu=500m")
		w.expectNode("small", "")
		time.Sleep(bindTimeout)
		w.settle()
		w.expectNode("small", "a")
	}, aNode("a cpu=1"), aClaim("data class=local"), aClass("local", "local.example.com", storagev1.VolumeBindingWaitForFirstConsumer))
}

func (w *world) claim(name string) *corev1.PersistentVolumeClaim {
	w.Helper()
	claim, err := w.client.CoreV1().PersistentVolumeClaims("default").Get(w.ctx, name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return claim
}

func (w *world) bindClaim(name, volumeName string) {
	w.Helper()
	claim := w.claim(name)
	bindClaim(claim, volumeName)
	if _, err := w.client.CoreV1().PersistentVolumeClaims("default").Update(w.ctx, claim, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.settle()
}
