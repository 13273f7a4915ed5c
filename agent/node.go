package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/utils/clock"
)

const (
	statusEvery   = 5 * time.Minute        // A Node's status is written so often even if nothing has changed.
	firstLook     = 100 * time.Millisecond // The first interval between looks at a node that is not Ready, doubling.
	retryNode     = 5 * time.Second        // The longest interval between looks while the API does not answer.
	answerTime    = 5 * time.Second        // Runtime and network must answer in this time.
	missedBeats   = 2                      // A Lease is good for so many heartbeats: 40 seconds, as in Kubernetes.
	maxNodeImages = 50                     // A Node names so many images, the largest.
)

// runNode registers the node and keeps what the API knows of it true. As long as the node is not Ready it looks often. When the API
// answers again that was away, it is told at once what has become of the pods.
func (a *Agent) runNode(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	registered := false
	tellReady := sync.OnceFunc(func() { close(a.ready) })
	for interval := firstLook; ctx.Err() == nil; {
		node, ready, err := a.lookAtNode(ctx)
		back := a.contact.learn(err)
		switch {
		case err != nil:
			slog.Debug("look at the node", "err", err)
		case !registered:
			registered = true
			wg.Go(func() { a.runLease(ctx, node) })
		}
		if back {
			a.addAll(ctx)
		}
		switch {
		case err != nil:
			interval = min(2*interval, retryNode, a.HeartbeatInterval)
		case ready:
			tellReady()
			interval = a.HeartbeatInterval
		default:
			interval = min(2*interval, a.HeartbeatInterval)
		}
		select {
		case <-ctx.Done():
		case <-a.pressure.news:
		case <-a.moved:
		case <-a.contact.doubt:
			pause(ctx, firstLook) // It may have been a moment's.
		case <-time.After(interval):
		}
	}
}

// runLease renews the node's Lease, the cheap sign of life, until ctx ends.
func (a *Agent) runLease(ctx context.Context, node *v1.Node) {
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
	own := func(l *coordinationv1.Lease) error {
		l.OwnerReferences = []metav1.OwnerReference{owner} // So that it goes when the Node goes.
		return nil
	}
	seconds := max(int32(missedBeats*a.HeartbeatInterval/time.Second), 1)
	lease.NewController(clock.RealClock{}, a.client, a.NodeName, seconds, nil, a.HeartbeatInterval, a.NodeName, v1.NamespaceNodeLease, own).Run(ctx)
}

// lookAtNode compares the Node with the host and writes what differs. A Node that somebody deleted is registered again.
func (a *Agent) lookAtNode(ctx context.Context) (node *v1.Node, ready bool, err error) {
	status, ready := a.nodeStatus(ctx)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	nodes := a.client.CoreV1().Nodes()
	node, err = nodes.Get(ctx, a.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		node, err = nodes.Create(ctx, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.NodeName, Labels: a.labels()}}, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, ready, fmt.Errorf("register node %s: %w", a.NodeName, err)
	}
	wanted := mergeNode(node, status, a.labels(), time.Now())
	if !nodeChanged(node, wanted, time.Now()) {
		return node, ready, nil
	}
	if err := a.writeNode(ctx, node, wanted); err != nil {
		return node, ready, err
	}
	for _, reason := range nodeEvents(node, wanted) {
		ref := &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID}
		a.events.Eventf(ref, v1.EventTypeNormal, reason, "Node %s status is now: %s", node.Name, reason)
	}
	return node, ready, nil
}

// nodeEvents are the reasons of the Events that a change of a Node is worth: a condition has come or gone.
func nodeEvents(before, after *v1.Node) []string {
	reasons := map[v1.NodeConditionType][2]string{
		v1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		v1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		v1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
		v1.NodeReady:          {"NodeReady", "NodeNotReady"},
	}
	var list []string
	for _, c := range after.Status.Conditions {
		i := slices.IndexFunc(before.Status.Conditions, func(had v1.NodeCondition) bool { return had.Type == c.Type })
		reason, ours := reasons[c.Type]
		switch {
		case !ours || i >= 0 && before.Status.Conditions[i].Status == c.Status:
		case c.Status == v1.ConditionTrue:
			list = append(list, reason[0])
		case i >= 0:
			list = append(list, reason[1])
		}
	}
	return list
}

// writeNode sends labels and status as patches, so that nothing else of the Node is touched.
func (a *Agent) writeNode(ctx context.Context, before, after *v1.Node) error {
	if !maps.Equal(before.Labels, after.Labels) {
		if err := a.patchNode(ctx, map[string]any{"metadata": map[string]any{"labels": before.Labels}},
			map[string]any{"metadata": map[string]any{"labels": after.Labels}}); err != nil {
			return err
		}
	}
	return a.patchNode(ctx, map[string]any{"status": before.Status}, map[string]any{"status": after.Status}, "status")
}

func (a *Agent) patchNode(ctx context.Context, before, after any, subresources ...string) error {
	from, err := json.Marshal(before)
	if err != nil {
		return fmt.Errorf("encode node %s: %w", a.NodeName, err)
	}
	to, err := json.Marshal(after)
	if err != nil {
		return fmt.Errorf("encode node %s: %w", a.NodeName, err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, v1.Node{})
	if err != nil {
		return fmt.Errorf("compare node %s: %w", a.NodeName, err)
	}
	if _, err := a.client.CoreV1().Nodes().Patch(ctx, a.NodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, subresources...); err != nil {
		return fmt.Errorf("write node %s: %w", a.NodeName, err)
	}
	return nil
}

// labels are those that the agent gives its Node.
func (a *Agent) labels() map[string]string {
	labels := maps.Clone(a.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, map[string]string{
		v1.LabelHostname: a.NodeName, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	})
	return labels
}

// nodeStatus asks runtime, network and host how they are.
func (a *Agent) nodeStatus(ctx context.Context) (status v1.NodeStatus, ready bool) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	version, err := a.runtime.Version(ctx)
	if err != nil {
		err = fmt.Errorf("container runtime is down: %w", err)
	} else if _, err = a.network.Pods(ctx); err != nil {
		err = fmt.Errorf("container runtime network not ready: %w", err)
	}
	images, _ := a.runtime.Images(ctx)
	status = v1.NodeStatus{
		Capacity:    a.capacity,
		Allocatable: a.allocatable(),
		NodeInfo:    systemInfo(a.boot, a.Version, version),
		Images:      nodeImages(images),
		Addresses:   a.nodeAddresses(),
		Features:    &v1.NodeFeatures{SupplementalGroupsPolicy: new(true)},

		RuntimeHandlers: nodeHandlers(a.runtime.Handlers()),
	}
	if tcp, ok := a.listener.Addr().(*net.TCPAddr); ok {
		status.DaemonEndpoints.KubeletEndpoint.Port = int32(tcp.Port)
	}
	short := a.pressure.conditions(time.Now())
	status.Conditions = nodeConditions(short[v1.NodeMemoryPressure], short[v1.NodeDiskPressure], short[v1.NodePIDPressure], err)
	return status, err == nil
}

func (a *Agent) allocatable() v1.ResourceList {
	return allocatableOf(a.capacity, a.Reserved, a.EvictionHard)
}

// nodeConditions tells the node's state as conditions, without times.
func nodeConditions(memory, disk, pids bool, notReady error) []v1.NodeCondition {
	condition := func(kind v1.NodeConditionType, is bool, yes, yesText, no, noText string) v1.NodeCondition {
		if is {
			return v1.NodeCondition{Type: kind, Status: v1.ConditionTrue, Reason: yes, Message: yesText}
		}
		return v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: no, Message: noText}
	}
	problem := ""
	if notReady != nil {
		problem = notReady.Error()
	}
	return []v1.NodeCondition{
		condition(v1.NodeMemoryPressure, memory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			"KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		condition(v1.NodeDiskPressure, disk, "KubeletHasDiskPressure", "kubelet has disk pressure",
			"KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		condition(v1.NodePIDPressure, pids, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
			"KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		condition(v1.NodeReady, notReady == nil, "KubeletReady", "kubelet is posting ready status", "KubeletNotReady", problem),
	}
}

// nodeImages names the largest images, which is what a scheduler wants to know.
func nodeImages(images []Image) []v1.ContainerImage {
	images = slices.Clone(images)
	slices.SortStableFunc(images, func(a, b Image) int {
		if a.Size != b.Size {
			return int(min(max(b.Size-a.Size, -1), 1))
		}
		return slices.Compare(a.Names, b.Names)
	})
	var list []v1.ContainerImage
	for _, image := range images[:min(len(images), maxNodeImages)] {
		list = append(list, v1.ContainerImage{Names: image.Names, SizeBytes: image.Size})
	}
	return list
}

// mergeNode is the Node as it should be: node with the agent's labels, resources, conditions and facts, and all else
// as it was.
func mergeNode(node *v1.Node, status v1.NodeStatus, labels map[string]string, now time.Time) *v1.Node {
	merged := node.DeepCopy()
	if merged.Labels == nil {
		merged.Labels = map[string]string{}
	}
	maps.Copy(merged.Labels, labels)
	if merged.Status.Capacity == nil {
		merged.Status.Capacity = v1.ResourceList{}
	}
	maps.DeleteFunc(merged.Status.Capacity, func(name v1.ResourceName, _ resource.Quantity) bool { // The host may have lost a size.
		return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
	})
	merged.Status.Allocatable = merged.Status.Capacity.DeepCopy() // Extended resources that somebody else has put there.
	maps.Copy(merged.Status.Capacity, status.Capacity)
	maps.Copy(merged.Status.Allocatable, status.Allocatable)
	merged.Status.NodeInfo, merged.Status.Images = status.NodeInfo, status.Images
	merged.Status.Addresses, merged.Status.DaemonEndpoints = status.Addresses, status.DaemonEndpoints
	merged.Status.Features, merged.Status.RuntimeHandlers = status.Features, status.RuntimeHandlers
	for _, c := range status.Conditions {
		c.LastHeartbeatTime, c.LastTransitionTime = seconds(now), seconds(now)
		i := slices.IndexFunc(merged.Status.Conditions, func(had v1.NodeCondition) bool { return had.Type == c.Type })
		if i < 0 {
			merged.Status.Conditions = append(merged.Status.Conditions, c)
			continue
		}
		if had := merged.Status.Conditions[i]; had.Status == c.Status {
			c.LastTransitionTime = had.LastTransitionTime
		}
		merged.Status.Conditions[i] = c
	}
	return merged
}

// nodeChanged says whether a Node is worth writing: something but the heartbeat times differs, or those are old.
func nodeChanged(before, after *v1.Node, now time.Time) bool {
	before = before.DeepCopy()
	for i := range before.Status.Conditions {
		had := &before.Status.Conditions[i]
		for _, c := range after.Status.Conditions {
			if c.Type == had.Type && now.Sub(had.LastHeartbeatTime.Time) < statusEvery {
				had.LastHeartbeatTime = c.LastHeartbeatTime
			}
		}
	}
	return !maps.Equal(before.Labels, after.Labels) || !apiequality.Semantic.DeepEqual(before.Status, after.Status)
}
