package agent

import (
	"context"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// finish is the end of a pod none of whose containers is alive. One that is to be deleted leaves nothing; of one that ran to
// its end the containers and logs stay to be looked at.
func (a *Agent) finish(ctx context.Context, pod *v1.Pod, containers []Container, m *memory) error {
	uid := string(pod.UID)
	if pod.DeletionTimestamp == nil {
		if m.torn {
			return a.giveBack(ctx, pod, containers)
		}
		if err := a.runtime.EndPod(ctx, uid); err != nil {
			return err
		}
		if err := a.network.Teardown(ctx, uid); err != nil {
			return fmt.Errorf("tear down the network of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		if err := a.dirs.removeVolumes(pod.UID); err != nil { // Also for what an evicted pod has filled.
			return fmt.Errorf("remove the volumes of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		a.sources.release(uid)
		a.pulls.forget(uid)
		a.probes.forget(uid)
		a.hooks.forget(uid)
		m.torn, m.ready = true, nil
		a.loop.Add(uid) // To tell.
		return nil
	}
	if err := a.clean(ctx, uid, containers); err != nil {
		return err
	}
	m.ready, m.cleaned = nil, true
	if a.isStatic(pod) { // Its mirror goes when this pod is looked for and not found.
		a.statics.forget(uid)
		a.loop.Add(uid)
		a.addNamed(pod.Namespace, pod.Name)
		return nil
	}
	err := a.contact.ask(ctx, func(ctx context.Context) error {
		return a.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(uid),
		})
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// giveBack removes what a pod wrote that had to go for what the node lacks, or for what it used; not before the API has how its containers
// ended.
func (a *Agent) giveBack(ctx context.Context, pod *v1.Pod, containers []Container) error {
	if pod.Status.Phase != v1.PodFailed || pod.Status.Reason != reasonEvicted {
		return nil
	}
	if len(containers) > 0 {
		if err := a.removeContents(ctx, pod, containers); err != nil {
			return err
		}
	}
	a.pressure.relieved(string(pod.UID))
	return nil
}

// removeContents removes the containers of a pod that is over, and what they have said: that takes from the disk. The API's status has how
// they ended.
func (a *Agent) removeContents(ctx context.Context, pod *v1.Pod, containers []Container) error {
	for i := range containers {
		if err := a.removeContainer(ctx, &containers[i]); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(a.dirs.podLogs(pod)); err != nil {
		return fmt.Errorf("remove the logs of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return a.runtime.Collect(ctx)
}

// clean removes all that a pod has on this node.
func (a *Agent) clean(ctx context.Context, uid string, containers []Container) error {
	a.sources.release(uid)
	a.pulls.forget(uid)
	a.probes.forget(uid)
	a.hooks.forget(uid)
	a.pressure.forget(uid)
	a.admitted.forget(uid)
	a.uses.noteOf(containers, time.Now())
	for i := range containers {
		if err := a.removeContainer(ctx, &containers[i]); err != nil {
			return err
		}
	}
	if err := a.runtime.RemovePod(ctx, uid); err != nil {
		return fmt.Errorf("remove what the runtime keeps for pod %s: %w", uid, err)
	}
	if err := a.shares.set(ctx, a); err != nil {
		return fmt.Errorf("take back the shares of pod %s: %w", uid, err)
	}
	if err := a.network.Teardown(ctx, uid); err != nil {
		return fmt.Errorf("tear down the network of pod %s: %w", uid, err)
	}
	if err := a.dirs.removePod(uid); err != nil {
		return err
	}
	a.users.forget(uid)
	return nil
}

// reconcileOrphan removes what is left of a pod that the API does not have any more.
func (a *Agent) reconcileOrphan(ctx context.Context, uid string, containers []Container) (time.Duration, error) {
	m := a.memories.of(uid)
	s := seen{pod: &v1.Pod{}, containers: containers, told: m.told, hooks: a.hooks.runs(uid, containers), now: time.Now()}
	d := decideOrphan(s)
	if err := a.do(ctx, s, d, m); err != nil {
		return 0, err
	}
	if !d.ended {
		return d.again, nil
	}
	if !m.cleaned || len(containers) > 0 {
		if err := a.clean(ctx, uid, containers); err != nil {
			return 0, err
		}
	}
	a.memories.forget(uid)
	if len(containers) > 0 {
		a.addNamed(containers[0].Pod.Namespace, containers[0].Pod.Name)
	}
	return 0, nil
}
