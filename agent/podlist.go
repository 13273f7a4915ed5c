package agent

import (
	"fmt"
	"net/http"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// servePods lists the pods of this node, as the agent knows them.
func (a *Agent) servePods(w http.ResponseWriter, _ *http.Request) {
	pods := []v1.Pod{}
	for _, pod := range a.ownPods() {
		pods = append(pods, *pod)
	}
	respondJSON(w, podList(pods))
}

// serveRunningPods lists the pods that have running containers, as the runtime knows them: their names, and what runs.
func (a *Agent) serveRunningPods(w http.ResponseWriter, r *http.Request) {
	containers, err := a.runtime.Containers(r.Context())
	if err != nil {
		respondError(w, fmt.Errorf("list containers: %w", err))
		return
	}
	respondJSON(w, podList(runningPods(containers)))
}

// runningPods gathers the containers that run by their pods.
func runningPods(containers []Container) []v1.Pod {
	pods, index := []v1.Pod{}, map[string]int{}
	for i := range containers {
		c := &containers[i]
		if !c.alive() {
			continue
		}
		at, known := index[c.Pod.UID]
		if !known {
			at = len(pods)
			index[c.Pod.UID] = at
			pods = append(pods, v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.Pod.Namespace, Name: c.Pod.Name, UID: types.UID(c.Pod.UID)}})
		}
		pods[at].Spec.Containers = append(pods[at].Spec.Containers, v1.Container{Name: c.Name, Image: c.Image})
	}
	return pods
}

func podList(pods []v1.Pod) v1.PodList {
	return v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: pods}
}
