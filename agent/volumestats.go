package agent

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/api"
	"skiff/api/stats"
)

// volumeStats measures the volumes that take from the node's disk, those in memory, and those of claims. Of the latter two it tells what
// their file systems say, which costs one call each; only emptyDirs on disk share theirs with others and have to be summed up.
func (a *Agent) volumeStats(pod *v1.Pod, claimed map[stats.ClaimRef]string) []stats.Volume {
	var list []stats.Volume
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		claim := stats.ClaimRef{Name: api.ClaimOf(pod, v), Namespace: pod.Namespace}
		dir := a.dirs.volume(pod.UID, v.Name)
		switch {
		case v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault:
			used := uint64(max(diskUsage(dir), 0))
			list = append(list, stats.Volume{Name: v.Name, Disk: *diskStats(a.DataDir, &used)})
		case v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumMemory:
			list = append(list, stats.Volume{Name: v.Name, Disk: *diskStats(dir, nil)})
		case claimed[claim] != "":
			list = append(list, stats.Volume{Name: v.Name, Disk: *diskStats(claimed[claim], nil), Claim: &claim})
		}
	}
	return list
}

// onDisk says that a volume of this name takes from what the node has of ephemeral storage.
func onDisk(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == name {
			return v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault
		}
	}
	return false
}

// claimDirs finds where the data of claims is, if it is on this node. Of volumes that are directories of the host Kubernetes, too,
// tells nothing.
func (a *Agent) claimDirs() map[stats.ClaimRef]string {
	volumes, err := a.reclaims.volumes.List(labels.Everything())
	if err != nil {
		slog.Error("list volumes", "err", err) // It reads from memory.
	}
	dirs := map[stats.ClaimRef]string{}
	for _, pv := range volumes {
		dir := ""
		switch {
		case pv.Spec.ClaimRef == nil || pv.Status.Phase != v1.VolumeBound:
			continue
		case pv.Spec.Local != nil:
			dir = pv.Spec.Local.Path
		case api.IsLocal(pv):
			dir, _ = a.dirs.localVolume(pv.Spec.CSI.VolumeHandle) // Of one that cannot be there is no pod.
		}
		if dir != "" {
			dirs[stats.ClaimRef{Name: pv.Spec.ClaimRef.Name, Namespace: pv.Spec.ClaimRef.Namespace}] = dir
		}
	}
	return dirs
}

// volumeMetric is a number that is known of the volume of each claim.
type volumeMetric struct {
	desc  *prometheus.Desc
	value func(stats.Disk) *uint64
}

// volumeMetrics are those that dashboards read of volumes, under the kubelet's names.
func volumeMetrics() []volumeMetric {
	named := func(name, help string, value func(stats.Disk) *uint64) volumeMetric {
		return volumeMetric{prometheus.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil), value}
	}
	return []volumeMetric{
		named("capacity_bytes", "Capacity in bytes of the volume", func(d stats.Disk) *uint64 { return d.Capacity }),
		named("available_bytes", "Number of available bytes in the volume", func(d stats.Disk) *uint64 { return d.Available }),
		named("used_bytes", "Number of used bytes in the volume", func(d stats.Disk) *uint64 { return d.Used }),
		named("inodes", "Maximum number of inodes in the volume", func(d stats.Disk) *uint64 { return d.Inodes }),
		named("inodes_free", "Number of free inodes in the volume", func(d stats.Disk) *uint64 { return d.InodesFree }),
		named("inodes_used", "Number of used inodes in the volume", func(d stats.Disk) *uint64 { return d.InodesUsed }),
	}
}

// sendVolumes tells of the claims that pods of these UIDs have, of each once.
func (m agentMetrics) sendVolumes(out chan<- prometheus.Metric, uids map[string]bool) {
	metrics, dirs := volumeMetrics(), m.claimDirs()
	for uid := range uids {
		pod := m.pod(uid)
		if pod == nil {
			continue // On its way out.
		}
		for i := range pod.Spec.Volumes {
			claim := stats.ClaimRef{Name: api.ClaimOf(pod, &pod.Spec.Volumes[i]), Namespace: pod.Namespace}
			dir := dirs[claim]
			if dir == "" {
				continue
			}
			delete(dirs, claim)
			disk := *diskStats(dir, nil)
			for _, metric := range metrics {
				if n := metric.value(disk); n != nil {
					out <- prometheus.MustNewConstMetric(metric.desc, prometheus.GaugeValue, float64(*n), claim.Namespace, claim.Name)
				}
			}
		}
	}
}
