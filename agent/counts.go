package agent

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
)

// counts are what has begun and ended on the node since the agent started, under the kubelet's names. But for pods that could not be
// set up, they follow from what the API is told: nothing counts twice, whoever looks how often.
type counts struct {
	running                                      prometheus.Histogram
	pods, podErrors, ownUsers, ownUsersErrors    prometheus.Counter
	containers, containerErrors, containersEnded *prometheus.CounterVec
}

func newCounts() *counts {
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help})
	}
	each := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help}, append([]string{"container_type"}, labels...))
	}
	return &counts{
		running: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kubelet_pod_start_duration_seconds",
			Help:    "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
			Buckets: []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600},
		}),
		pods:            one("started_pods_total", "Cumulative number of pods started"),
		podErrors:       one("started_pods_errors_total", "Cumulative number of errors when starting pods"),
		ownUsers:        one("started_user_namespaced_pods_total", "Cumulative number of pods with user namespaces started"),
		ownUsersErrors:  one("started_user_namespaced_pods_errors_total", "Cumulative number of errors when starting pods with user namespaces"),
		containers:      each("started_containers_total", "Cumulative number of containers started"),
		containerErrors: each("started_containers_errors_total", "Cumulative number of errors when starting containers", "code"),
		containersEnded: each("terminated_containers_total", "Cumulative number of container terminations.", "exit_code", "reason"),
	}
}

func (c *counts) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.running, c.pods, c.podErrors, c.ownUsers, c.ownUsersErrors, c.containers, c.containerErrors, c.containersEnded}
}

// notSetUp counts that what a pod's containers share could not be made.
func (c *counts) notSetUp(pod *v1.Pod) {
	c.podErrors.Inc()
	if hasOwnUsers(pod) {
		c.ownUsersErrors.Inc()
	}
}

// changed counts what a pod's next status tells of that the one before did not.
func (c *counts) changed(pod *v1.Pod, next *v1.PodStatus) {
	if isSetUp(next) && !isSetUp(&pod.Status) {
		c.pods.Inc()
		if hasOwnUsers(pod) {
			c.ownUsers.Inc()
		}
	}
	for kind, list := range map[string][]v1.ContainerStatus{
		"container": next.ContainerStatuses, "init_container": next.InitContainerStatuses, "ephemeral_container": next.EphemeralContainerStatuses,
	} {
		for i := range list {
			c.containerChanged(kind, pod, &list[i])
		}
	}
}

func (c *counts) containerChanged(kind string, pod *v1.Pod, next *v1.ContainerStatus) {
	before := seen{pod: pod}.past(next.Name)
	if before == nil {
		before = &v1.ContainerStatus{}
	}
	end, endBefore := latestEnd(next), latestEnd(before)
	ended := end != nil && (endBefore == nil || end.ContainerID != endBefore.ContainerID)
	if ended {
		c.containersEnded.WithLabelValues(kind, strconv.Itoa(int(end.ExitCode)), end.Reason).Inc()
	}
	code := ""
	switch waiting, waited := next.State.Waiting, before.State.Waiting; {
	case ended && end.Reason == reasonStartError:
		code = reasonRunError
	case waiting != nil && startCameToNothing(waiting.Reason) && (waited == nil || *waited != *waiting):
		code = waiting.Reason
	}
	if code != "" {
		c.containerErrors.WithLabelValues(kind, code).Inc()
		if hasOwnUsers(pod) {
			c.ownUsersErrors.Inc()
		}
	}
	if code != "" || next.ContainerID != "" && next.ContainerID != before.ContainerID {
		c.containers.WithLabelValues(kind).Inc()
	}
}

// isSetUp says that what a pod's containers share is there.
func isSetUp(status *v1.PodStatus) bool {
	c := conditionOf(status.Conditions, v1.PodReadyToStartContainers)
	return c != nil && c.Status == v1.ConditionTrue
}

// startCameToNothing says of what a container waits for that its start failed before there was a process that could.
func startCameToNothing(reason string) bool {
	switch reason {
	case reasonPull, reasonNeverPull, reasonInvalidImage, reasonInspect, reasonConfigError, reasonCreateError:
		return true
	}
	return false
}

// latestEnd is the last end that a status tells of.
func latestEnd(cs *v1.ContainerStatus) *v1.ContainerStateTerminated {
	if cs.State.Terminated != nil {
		return cs.State.Terminated
	}
	return cs.LastTerminationState.Terminated
}
