package controller

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
)

func (c *cluster) node(name string) {
	c.Helper()
	_, err := c.client.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}},
		metav1.CreateOptions{})
	c.must(err)
}

// createClaim makes a claim of 1Gi; change may be nil.
func (c *cluster) createClaim(name, class string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c.Helper()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	if change != nil {
		change(claim)
	}
	claim, err := c.client.CoreV1().PersistentVolumeClaims("default").Create(c.ctx, claim, metav1.CreateOptions{})
	c.must(err)
	return claim
}

// createVolume makes a volume of a path that holds data of nobody's.
func (c *cluster) createVolume(name, class, size string, policy corev1.PersistentVolumeReclaimPolicy) {
	c.Helper()
	_, err := c.client.CoreV1().PersistentVolumes().Create(c.ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, StorageClassName: class,
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: policy,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere/" + name}},
		},
	}, metav1.CreateOptions{})
	c.must(err)
}

// claimIs waits until a claim is as said: phase, volume and capacity, or "gone".
func (c *cluster) claimIs(name, want string) {
	c.Helper()
	c.eventually("claim "+name+" is "+want, func() string {
		claim, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, name, metav1.GetOptions{})
		if want == "gone" {
			return gonePlease(err)
		}
		if err != nil {
			return err.Error()
		}
		got := string(claim.Status.Phase)
		if size := claim.Status.Capacity[corev1.ResourceStorage]; claim.Spec.VolumeName != "" {
			got = strings.Join([]string{got, claim.Spec.VolumeName, size.String()}, " ")
		}
		if got != want {
			return "it is " + got
		}
		return ""
	})
}

// volumeIs waits until a volume has a phase, or is "gone".
func (c *cluster) volumeIs(name, want string) {
	c.Helper()
	c.eventually("volume "+name+" is "+want, func() string {
		v, err := c.client.CoreV1().PersistentVolumes().Get(c.ctx, name, metav1.GetOptions{})
		if want == "gone" {
			return gonePlease(err)
		}
		if err != nil {
			return err.Error()
		}
		if string(v.Status.Phase) != want {
			return "it is " + string(v.Status.Phase)
		}
		return ""
	})
}

// toldOf waits for an Event.
func (c *cluster) toldOf(namespace, name, reason, message string) {
	c.Helper()
	c.eventually(name+" is told of", func() string {
		list, err := c.client.CoreV1().Events(namespace).List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, message) {
				return ""
			}
			all = append(all, e.Reason+": "+e.Message)
		}
		return fmt.Sprintf("%q, want %s: %s", all, reason, message)
	})
}

func (c *cluster) deleteClaim(name string) {
	c.Helper()
	c.must(c.client.CoreV1().PersistentVolumeClaims("default").Delete(c.ctx, name, metav1.DeleteOptions{}))
}

func (c *cluster) patchClaim(name, patch string) error {
	_, err := c.client.CoreV1().PersistentVolumeClaims("default").Patch(c.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// A claim gets the smallest of the volumes that are large enough, whichever of the two comes first; what becomes of the volume
// afterwards is for its policy to say.
func TestStaticVolumes(t *testing.T) {
	c := startCluster(t)
	c.createVolume("small", "", "500Mi", corev1.PersistentVolumeReclaimRetain)
	c.createVolume("large", "", "5Gi", corev1.PersistentVolumeReclaimRetain)
	c.createVolume("other", "other", "2Gi", corev1.PersistentVolumeReclaimRetain)
	c.createVolume("fitting", "", "2Gi", corev1.PersistentVolumeReclaimRetain)
	for _, name := range []string{"small", "large", "other", "fitting"} {
		c.volumeIs(name, "Available")
	}
	c.createClaim("data", "", nil)
	c.claimIs("data", "Bound fitting 2Gi")
	c.volumeIs("fitting", "Bound")
	c.createClaim("named", "", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeName = "large" })
	c.claimIs("named", "Bound large 5Gi")
	c.createClaim("early", "later", nil)
	c.toldOf("default", "early", "ProvisioningFailed", `storageclass.storage.k8s.io "later" not found`)
	c.createVolume("late", "later", "1Gi", corev1.PersistentVolumeReclaimDelete)
	c.claimIs("early", "Bound late 1Gi")
	c.createClaim("wrong", "", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeName = "small" })
	c.toldOf("default", "wrong", "VolumeMismatch", `Cannot bind to requested volume "small": requested PV is too small`)
	c.createClaim("second", "", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeName = "large" })
	c.toldOf("default", "second", "FailedBinding", `volume "large" already bound to a different claim.`)
	c.createClaim("none", "", nil)
	c.toldOf("default", "none", "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	c.claimIs("none", "Pending")

	c.deleteClaim("data")
	c.claimIs("data", "gone")
	c.volumeIs("fitting", "Released")
	c.deleteClaim("early")
	c.volumeIs("late", "Failed") // Nobody here deletes what is at a path of a host.
	c.toldOf("default", "late", "VolumeFailedDelete", "no deletable volume plugin matched")

	c.must(c.client.CoreV1().PersistentVolumes().Delete(c.ctx, "large", metav1.DeleteOptions{}))
	c.claimIs("named", "Bound large 5Gi") // It is in use.
	c.deleteClaim("named")
	c.volumeIs("large", "gone")
}

// A claim of the class "local" gets a volume on the node that the scheduler has selected, may grow, and takes the volume with it
// when it goes.
func TestLocalVolumes(t *testing.T) {
	c := startCluster(t)
	c.node("a")
	c.node("b")
	claim := c.createClaim("data", "local", nil)
	c.toldOf("default", "data", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	c.claimIs("data", "Pending")
	c.must(c.patchClaim("data", `{"metadata":{"annotations":{"volume.kubernetes.io/selected-node":"b"}}}`))
	name := "pvc-" + string(claim.UID)
	c.claimIs("data", "Bound "+name+" 1Gi")
	c.toldOf("default", "data", "ProvisioningSucceeded", "Successfully provisioned volume "+name)
	v, err := c.client.CoreV1().PersistentVolumes().Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	affinity := v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0]
	if !api.IsLocal(v) || affinity.Key != corev1.LabelHostname || affinity.Values[0] != "b" {
		t.Errorf("the volume is %+v, want one of %s on node b", v.Spec, api.LocalDriver)
	}
	c.must(c.patchClaim("data", `{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}`))
	c.claimIs("data", "Bound "+name+" 3Gi")

	// The node holds data of it until it has deleted that.
	_, err = c.client.CoreV1().PersistentVolumes().Patch(c.ctx, name, types.StrategicMergePatchType,
		[]byte(`{"metadata":{"finalizers":["`+api.LocalFinalizer+`"]}}`), metav1.PatchOptions{})
	c.must(err)
	c.deleteClaim("data")
	c.claimIs("data", "gone")
	c.volumeIs(name, "Released")
	c.eventually("only the node's finalizer is left", func() string {
		v, err := c.client.CoreV1().PersistentVolumes().Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if v.DeletionTimestamp == nil || len(v.Finalizers) != 1 {
			return fmt.Sprintf("deleted at %v, finalizers %v", v.DeletionTimestamp, v.Finalizers)
		}
		return ""
	})
	c.must(c.client.CoreV1().Nodes().Delete(c.ctx, "b", metav1.DeleteOptions{}))
	c.volumeIs(name, "gone") // With its node.

	gone := c.createClaim("nowhere", "local", func(p *corev1.PersistentVolumeClaim) {
		p.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "b"}
	})
	c.eventually("a claim is taken off a node that is gone", func() string {
		claim, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, gone.Name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return claim.Annotations["volume.kubernetes.io/selected-node"]
	})
	block := corev1.PersistentVolumeBlock
	c.createClaim("block", "local", func(p *corev1.PersistentVolumeClaim) {
		p.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "a"}
		p.Spec.VolumeMode = &block
	})
	c.toldOf("default", "block", "ProvisioningFailed", `failed to provision volume with StorageClass "local": volumeMode Block is not supported`)
}

// A volume that is to be made at once is made as soon as there is a node that may have it.
func TestLocalVolumeWaitsForNode(t *testing.T) {
	c := startCluster(t)
	now := storagev1.VolumeBindingImmediate
	_, err := c.client.StorageV1().StorageClasses().Create(c.ctx,
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: api.LocalDriver, VolumeBindingMode: &now}, metav1.CreateOptions{})
	c.must(err)
	claim := c.createClaim("data", "now", nil)
	c.toldOf("default", "data", "ProvisioningFailed", "no node can have it")
	c.claimIs("data", "Pending")
	c.node("a")
	_, err = c.client.CoreV1().Nodes().Patch(c.ctx, "a", types.StrategicMergePatchType, []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`),
		metav1.PatchOptions{}, "status")
	c.must(err)
	c.claimIs("data", "Bound pvc-"+string(claim.UID)+" 1Gi")
}

// A claim that came before there was a default class gets the one that comes; one that wants none does not.
func TestDefaultClassComesLater(t *testing.T) {
	c := startCluster(t)
	_, err := c.client.StorageV1().StorageClasses().Patch(c.ctx, "local", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"storageclass.kubernetes.io/is-default-class":"false"}}}`), metav1.PatchOptions{})
	c.must(err)
	c.createClaim("old", "", func(p *corev1.PersistentVolumeClaim) { p.Spec.StorageClassName = nil })
	c.createClaim("without", "", nil)
	for _, name := range []string{"old", "without"} {
		c.toldOf("default", name, "FailedBinding", "no storage class is set")
	}
	_, err = c.client.StorageV1().StorageClasses().Create(c.ctx, &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "usual", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: "disk.example.com",
	}, metav1.CreateOptions{})
	c.must(err)
	c.toldOf("default", "old", "ExternalProvisioning", "external provisioner 'disk.example.com'")
	for name, want := range map[string]string{"old": "usual", "without": ""} {
		claim, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		if got := claim.Spec.StorageClassName; got == nil || *got != want {
			t.Errorf("the class of claim %s is %v, want %q", name, got, want)
		}
	}
}

// A class of somebody else's is left to him, and does not grow unless it says so.
func TestForeignClasses(t *testing.T) {
	c := startCluster(t)
	for name, provisioner := range map[string]string{"cloud": "disk.example.com", "manual": "kubernetes.io/no-provisioner"} {
		_, err := c.client.StorageV1().StorageClasses().Create(c.ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner}, metav1.CreateOptions{})
		c.must(err)
	}
	c.createClaim("data", "cloud", nil)
	c.toldOf("default", "data", "ExternalProvisioning", "external provisioner 'disk.example.com'")
	claim, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, "data", metav1.GetOptions{})
	c.must(err)
	if got := claim.Annotations["volume.kubernetes.io/storage-provisioner"]; got != "disk.example.com" {
		t.Errorf("the claim's provisioner is %q", got)
	}
	c.createClaim("byhand", "manual", nil)
	c.toldOf("default", "byhand", "ProvisioningFailed", "no volume plugin matched name: kubernetes.io/no-provisioner")
	c.createVolume("disk", "cloud", "1Gi", corev1.PersistentVolumeReclaimRetain)
	c.claimIs("data", "Bound disk 1Gi")
	err = c.patchClaim("data", `{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}`)
	if err == nil || !strings.Contains(err.Error(), "only dynamically provisioned pvc can be resized") {
		t.Errorf("to let it grow: %v", err)
	}
	c.must(c.patchClaim("data", `{"metadata":{"labels":{"a":"b"}}}`))
}

// A claim stays as long as a pod uses it, and one that is made for a pod goes with it.
func TestClaimsInUse(t *testing.T) {
	c := startCluster(t)
	c.createVolume("disk", "", "1Gi", corev1.PersistentVolumeReclaimRetain)
	c.createClaim("data", "", nil)
	c.claimIs("data", "Bound disk 1Gi")
	class := "local"
	pod, err := c.client.CoreV1().Pods("default").Create(c.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.PodSpec{
			NodeName: "a", Containers: []corev1.Container{{Name: "app", Image: "nginx"}},
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
					Spec: corev1.PersistentVolumeClaimSpec{
						AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
						Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
					},
				}}}},
			},
		},
	}, metav1.CreateOptions{})
	c.must(err)
	c.claimIs("web-scratch", "Pending")
	scratch, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, "web-scratch", metav1.GetOptions{})
	c.must(err)
	if !metav1.IsControlledBy(scratch, pod) {
		t.Errorf("the claim of the pod's own volume belongs to %v", scratch.OwnerReferences)
	}
	c.deleteClaim("data")
	c.claimIs("data", "Bound disk 1Gi")
	now := int64(0)
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	c.claimIs("data", "gone")
	c.claimIs("web-scratch", "gone")
	c.volumeIs("disk", "Released")
}

// A claim whose volume was taken away says that its data is lost.
func TestLostClaim(t *testing.T) {
	c := startCluster(t)
	c.createVolume("disk", "", "1Gi", corev1.PersistentVolumeReclaimRetain)
	c.createClaim("data", "", nil)
	c.claimIs("data", "Bound disk 1Gi")
	c.must(c.client.CoreV1().PersistentVolumes().Delete(c.ctx, "disk", metav1.DeleteOptions{}))
	_, err := c.client.CoreV1().PersistentVolumes().Patch(c.ctx, "disk", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	c.must(err)
	c.claimIs("data", "Lost disk 0")
	c.toldOf("default", "data", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
}

// A VolumeAttributesClass stays as long as a claim or a volume names it.
func TestAttributesClassInUse(t *testing.T) {
	c := startCluster(t)
	classes := c.client.StorageV1().VolumeAttributesClasses()
	for _, name := range []string{"gold", "silver"} {
		_, err := classes.Create(c.ctx, &storagev1.VolumeAttributesClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, DriverName: "csi.example.com", Parameters: map[string]string{"iops": "1"},
		}, metav1.CreateOptions{})
		c.must(err)
	}
	c.createClaim("data", "none", func(claim *corev1.PersistentVolumeClaim) { claim.Spec.VolumeAttributesClassName = new("gold") })
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "disk"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			VolumeAttributesClassName: new("gold"), StorageClassName: "other",
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.example.com", VolumeHandle: "1"}},
		},
	}
	_, err := c.client.CoreV1().PersistentVolumes().Create(c.ctx, volume, metav1.CreateOptions{})
	c.must(err)
	for _, name := range []string{"gold", "silver"} {
		c.must(classes.Delete(c.ctx, name, metav1.DeleteOptions{}))
	}
	there := func(name string) func() string {
		return func() string {
			if _, err := classes.Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("it is still there: %v", err)
			}
			return ""
		}
	}
	c.eventually("silver, which nothing names, goes", there("silver"))
	c.deleteClaim("data")
	c.claimIs("data", "gone")
	if there("gold")() == "" {
		t.Error("gold is gone, though a volume names it")
	}
	c.must(c.client.CoreV1().PersistentVolumes().Delete(c.ctx, "disk", metav1.DeleteOptions{}))
	c.eventually("gold goes with the last that names it", there("gold"))
}
