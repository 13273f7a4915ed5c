package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/volume"

	"skiff/api"
)

// provision has a volume made for a claim: by this cluster's own driver at once, or by whoever else acts for the class.
func (c *claims) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	class, err := c.classes.Get(volume.GetPersistentVolumeClaimClass(claim))
	switch {
	case apierrors.IsNotFound(err):
		c.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", err.Error())
		return c.setPending(ctx, claim)
	case err != nil:
		return err
	case class.Provisioner == api.LocalDriver:
		return c.provisionLocal(ctx, claim, class)
	case strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		c.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: "+class.Provisioner)
		return c.setPending(ctx, claim)
	}
	return c.leaveToOthers(ctx, claim, class.Provisioner)
}

// leaveToOthers tells a provisioner that runs in the cluster that it is wanted, and then everybody else.
func (c *claims) leaveToOthers(ctx context.Context, claim *corev1.PersistentVolumeClaim, provisioner string) error {
	if claim.Annotations[volume.AnnStorageProvisioner] != provisioner {
		next := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnStorageProvisioner, provisioner)
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnBetaStorageProvisioner, provisioner)
		next, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, next, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("tell the provisioner of claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
		claim = next
	}
	c.events.Event(claim, corev1.EventTypeNormal, "ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external "+
		"provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running "+
		"and correctly registered.", provisioner))
	return c.setPending(ctx, claim)
}

// provisionLocal makes a volume on a node: the one that the scheduler has selected, or any. The node makes the directory when
// the first pod comes.
func (c *claims) provisionLocal(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	fail := func(problem string) error {
		c.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed",
			fmt.Sprintf("failed to provision volume with StorageClass %q: %s", class.Name, problem))
		return c.setPending(ctx, claim)
	}
	if problem := unprovisionable(claim, class); problem != "" {
		return fail(problem)
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	selected := claim.Annotations[volume.AnnSelectedNode]
	node := chooseNode(nodes, selected, class.AllowedTopologies)
	switch {
	case node == nil && selected != "":
		return c.deselect(ctx, claim)
	case node == nil:
		return fail("no node can have it")
	}
	c.events.Event(claim, corev1.EventTypeNormal, "Provisioning",
		fmt.Sprintf("External provisioner is provisioning volume for claim \"%s/%s\"", claim.Namespace, claim.Name))
	v, err := c.client.CoreV1().PersistentVolumes().Create(ctx, localVolume(claim, class, node), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // Its event is on the way, and brings the claim back.
		return nil
	}
	if err != nil {
		return fmt.Errorf("make a volume for claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	c.events.Event(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume "+v.Name)
	return c.bind(ctx, v, claim)
}

// unprovisionable is why a directory of a node cannot be what a claim wants, "" if it can.
func unprovisionable(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	switch {
	case claim.Spec.Selector != nil:
		return "claim Selector is not supported"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "a dataSource is not supported"
	case claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return "volumeMode Block is not supported"
	case claim.Spec.VolumeAttributesClassName != nil && *claim.Spec.VolumeAttributesClassName != "":
		return "a volumeAttributesClassName is not supported"
	case len(class.MountOptions) > 0:
		return "mountOptions are not supported"
	case len(class.Parameters) > 0:
		return fmt.Sprintf("the parameter %q is not known", slices.Sorted(maps.Keys(class.Parameters))[0])
	}
	return ""
}

// chooseNode is the node of that name or, where there is none, one that may have new pods, the first by name. Nil: there is none.
func chooseNode(nodes []*corev1.Node, name string, allowed []corev1.TopologySelectorTerm) *corev1.Node {
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	i := slices.IndexFunc(nodes, func(n *corev1.Node) bool {
		if !api.InTopology(allowed, n.Labels) {
			return false
		}
		return n.Name == name || name == "" && open(n)
	})
	if i < 0 {
		return nil
	}
	return nodes[i]
}

// open says that a node may have new pods.
func open(n *corev1.Node) bool { return !n.Spec.Unschedulable && nodeReady(n) }

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// deselect has the scheduler look for another node.
func (c *claims) deselect(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	next := claim.DeepCopy()
	delete(next.Annotations, volume.AnnSelectedNode)
	if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("take claim %s/%s off a node that cannot have it: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// localVolume is the volume for a claim on a node, bound to the claim from the first moment. Its name can be had once only.
func localVolume(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) *corev1.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{volume.AnnDynamicallyProvisioned: api.LocalDriver}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: policy,
			StorageClassName:              class.Name,
			VolumeMode:                    claim.Spec.VolumeMode,
			ClaimRef: &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
				ResourceVersion: claim.ResourceVersion,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: api.LocalDriver, VolumeHandle: name}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{cmp.Or(node.Labels[corev1.LabelHostname], node.Name)},
				}},
			}}}},
		},
	}
}

// grow gives a claim that asks for more than it has what it asks for: nothing but the
// numbers changes here, and the agent, where it limits a volume, goes by the volume's.
func (c *claims) grow(ctx context.Context, v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	const storage = corev1.ResourceStorage
	wanted, has, size := claim.Spec.Resources.Requests[storage], claim.Status.Capacity[storage], v.Spec.Capacity[storage]
	if claim.Status.Phase != corev1.ClaimBound || !api.IsLocal(v) || wanted.Cmp(has) <= 0 {
		return nil
	}
	if size.Cmp(wanted) < 0 {
		next := v.DeepCopy()
		next.Spec.Capacity[storage] = wanted
		if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("resize volume %s: %w", v.Name, err)
		}
	}
	status := *claim.Status.DeepCopy()
	if status.Capacity == nil {
		status.Capacity = corev1.ResourceList{}
	}
	status.Capacity[storage] = wanted
	if err := c.setStatus(ctx, claim, status); err != nil {
		return err
	}
	c.events.Event(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	return nil
}
