package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An Event is worth it when a container comes to wait for a new reason, and only then.
func TestStatusEvents(t *testing.T) {
	waiting := func(restarts int32, reason, message string) v1.ContainerStatus {
		return v1.ContainerStatus{Name: "app", RestartCount: restarts, State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}}
	}
	running := v1.ContainerStatus{Name: "app", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}
	const backOff = "Back-off restarting failed container app in pod web_default(uid)"
	for _, tc := range []struct {
		name       string
		from, to   v1.ContainerStatus
		wantEvents []string
	}{
		{"it crashed", running, waiting(1, reasonCrashLoop, "back-off 10s"), []string{"Warning BackOff " + backOff}},
		{"it still waits", waiting(1, reasonCrashLoop, "back-off 10s"), waiting(1, reasonCrashLoop, "back-off 10s"), nil},
		{"it crashed again", waiting(1, reasonCrashLoop, "back-off 10s"), waiting(2, reasonCrashLoop, "back-off 20s"), []string{"Warning BackOff " + backOff}},
		{"a pull failed", v1.ContainerStatus{Name: "app"}, waiting(0, reasonPull, `Failed to pull image "x": gone`),
			[]string{`Warning Failed Failed to pull image "x": gone`, "Warning Failed Error: ErrImagePull"}},
		{"and waits", waiting(0, reasonPull, "m"), waiting(0, reasonPullBackoff, `Back-off pulling image "nginx": ErrImagePull: m`),
			[]string{`Normal BackOff Back-off pulling image "nginx"`, "Warning Failed Error: ImagePullBackOff"}},
		{"something is missing", v1.ContainerStatus{Name: "app"}, waiting(0, reasonConfigError, `configmap "x" not found`), []string{`Warning Failed Error: configmap "x" not found`}},
		{"something else is missing", waiting(0, reasonConfigError, `configmap "x" not found`), waiting(0, reasonConfigError, `configmap "y" not found`),
			[]string{`Warning Failed Error: configmap "y" not found`}},
		{"it runs", waiting(0, reasonCreating, ""), running, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &v1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid"},
				Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "app", Image: "nginx"}}},
				Status:     v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{tc.from}},
			}
			var got []string
			for _, e := range statusEvents(pod, &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{tc.to}}) {
				got = append(got, e.kind+" "+e.reason+" "+e.message)
			}
			if diff := cmp.Diff(tc.wantEvents, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
