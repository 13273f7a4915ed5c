// Package stats is what a node tells of what it and its pods use: the document at /stats/summary of its agent. The agent writes
// it, and the API server makes of it what `kubectl top` reads.
//
// Names and meanings are those of the kubelet's Summary API; a number that a node does not know is left out.
// https://kubernetes.io/docs/reference/instrumentation/node-metrics/
//
// In Kubernetes: k8s.io/kubelet/pkg/apis/stats/v1alpha1. Left out: accelerators, user-defined metrics, the kubelet's and the
// runtime's own cgroups, PSI.
package stats

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Summary is a node with its pods.
type Summary struct {
	Node Node  `json:"node"`
	Pods []Pod `json:"pods"`
}

// Node is the machine as a whole.
type Node struct {
	Name      string      `json:"nodeName"`
	StartTime metav1.Time `json:"startTime"`
	CPU       *CPU        `json:"cpu,omitempty"`
	Memory    *Memory     `json:"memory,omitempty"`
	Network   *Network    `json:"network,omitempty"`
	Disk      *Disk       `json:"fs,omitempty"`
	Runtime   *Runtime    `json:"runtime,omitempty"`
	Processes *Processes  `json:"rlimit,omitempty"`
}

// Runtime is what the container runtime keeps.
type Runtime struct {
	Images *Disk `json:"imageFs,omitempty"`
}

// Pod is what its containers use together, and one by one.
type Pod struct {
	Ref        PodRef      `json:"podRef"`
	StartTime  metav1.Time `json:"startTime"`
	Containers []Container `json:"containers"`
	CPU        *CPU        `json:"cpu,omitempty"`
	Memory     *Memory     `json:"memory,omitempty"`
	Network    *Network    `json:"network,omitempty"`
	Volumes    []Volume    `json:"volume,omitempty"`
	Ephemeral  *Disk       `json:"ephemeral-storage,omitempty"`
	Processes  *Count      `json:"process_stats,omitempty"`
}

// PodRef names a pod.
type PodRef struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	UID       string `json:"uid"`
}

// Container is a running one.
type Container struct {
	Name      string      `json:"name"`
	StartTime metav1.Time `json:"startTime"`
	CPU       *CPU        `json:"cpu,omitempty"`
	Memory    *Memory     `json:"memory,omitempty"`
	Root      *Disk       `json:"rootfs,omitempty"`
	Logs      *Disk       `json:"logs,omitempty"`
}

// CPU is time of processors: how fast it goes, over the Window before Time, and how much it has been since the start.
type CPU struct {
	Time      metav1.Time     `json:"time"`
	Window    metav1.Duration `json:"window,omitzero"` // Not the kubelet's: over how long the usage is an average.
	NanoCores *uint64         `json:"usageNanoCores,omitempty"`
	CoreNanos *uint64         `json:"usageCoreNanoSeconds,omitempty"`
}

// Memory is in bytes.
type Memory struct {
	Time       metav1.Time `json:"time"`
	Available  *uint64     `json:"availableBytes,omitempty"` // Of the limit.
	Usage      *uint64     `json:"usageBytes,omitempty"`
	WorkingSet *uint64     `json:"workingSetBytes,omitempty"`
	RSS        *uint64     `json:"rssBytes,omitempty"`
	Faults     *uint64     `json:"pageFaults,omitempty"`
	BigFaults  *uint64     `json:"majorPageFaults,omitempty"`
}

// Network is the link that the default route goes by, and all links.
type Network struct {
	Time metav1.Time `json:"time"`
	Link
	Links []Link `json:"interfaces,omitempty"`
}

// Link counts bytes.
type Link struct {
	Name     string  `json:"name"`
	RxBytes  *uint64 `json:"rxBytes,omitempty"`
	RxErrors *uint64 `json:"rxErrors,omitempty"`
	TxBytes  *uint64 `json:"txBytes,omitempty"`
	TxErrors *uint64 `json:"txErrors,omitempty"`
}

// Disk is a file system, and what of it is used by who the statistic is of.
type Disk struct {
	Time       metav1.Time `json:"time"`
	Available  *uint64     `json:"availableBytes,omitempty"`
	Capacity   *uint64     `json:"capacityBytes,omitempty"`
	Used       *uint64     `json:"usedBytes,omitempty"`
	InodesFree *uint64     `json:"inodesFree,omitempty"`
	Inodes     *uint64     `json:"inodes,omitempty"`
	InodesUsed *uint64     `json:"inodesUsed,omitempty"`
}

// Volume is one of a pod's.
type Volume struct {
	Name string `json:"name"`
	Disk
	Claim *ClaimRef `json:"pvcRef,omitempty"`
}

// ClaimRef names the claim that a volume is of.
type ClaimRef struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// Processes are those of the machine.
type Processes struct {
	Time metav1.Time `json:"time"`
	Most *int64      `json:"maxpid,omitempty"`
	Now  *int64      `json:"curproc,omitempty"`
}

// Count is how many processes there are.
type Count struct {
	Processes *uint64 `json:"process_count,omitempty"`
}
