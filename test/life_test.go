package test

import (
	"regexp"
	"testing"
	"time"
)

// testReplaced deletes a pod of a Deployment.
func testReplaced(t *testing.T, s *shell) {
	s.do("kubectl apply -f deployment1.yaml")
	s.do("kubectl wait --for=condition=Available deployment/app1 --timeout=60s")
	old := s.do("kubectl get pods -o jsonpath={.items[0].metadata.name}")
	s.says("kubectl delete pod "+old, `pod "`+old+`" deleted(?: from `+s.space+` namespace)?`)
	s.until("kubectl get pods --no-headers", `app1-\S+ +1/1 +Running +0 +\S+`)
	if now := s.do("kubectl get pods -o jsonpath={.items[0].metadata.name}"); now == old {
		t.Errorf("pod %s is still there", old)
	}

	// One whose process dies stays, and its container is started again.
	s.do("kubectl exec deploy/app1 -- sh -c 'kill -QUIT 1'")
	s.until("kubectl get pods --no-headers", `app1-\S+ +1/1 +Running +1 \(\S+ ago\) +\S+`)
}

// testBackOff runs a container that exits at once.
func testBackOff(t *testing.T, s *shell) {
	watch := s.terminal("kubectl get pods -w")
	s.do("kubectl run crash --image=busybox --image-pull-policy=Never -- sh -c 'exit 3'")
	// The first restart comes at once, the second after 10 s, and so on, twice as long each time.
	when := func(what string) time.Time {
		t.Helper()
		at, err := time.Parse(time.RFC3339, s.do("kubectl get pod crash -o jsonpath={.status.containerStatuses[0].lastState.terminated."+what+"}"))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	watch.sees(`crash +0/1 +CrashLoopBackOff +1 \(`)
	ended := when("finishedAt")
	watch.sees(`crash +0/1 +CrashLoopBackOff +2 \(`)
	if waited := when("startedAt").Sub(ended); waited < 9*time.Second { // Both are cut to whole seconds.
		t.Errorf("the second restart came after %v, want about 10 s", waited)
	}
	watch.types("\x03")
	s.says("kubectl get pod crash -o jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}", "3")
	s.until("kubectl get events --field-selector involvedObject.name=crash,reason=BackOff -o jsonpath='{.items[*].message}'",
		`Back-off restarting failed container crash in pod crash_`+s.space+`\(\S+\)`)

	s.do("kubectl run once --image=busybox --image-pull-policy=Never --restart=Never -- sh -c 'echo done; exit 0'")
	s.until("kubectl get pod once --no-headers", `once +0/1 +Completed +0 +\S+`)
	s.says("kubectl logs once", "done")
}

// testMissingImage names an image on a registry that is not there, and one that is never pulled.
func testMissingImage(t *testing.T, s *shell) {
	const image = "127.0.0.1:1/nobody/nothing:1"
	watch := s.terminal("kubectl get pods -w")
	s.do("kubectl run none --image=" + image)
	watch.sees(`none +0/1 +(ErrImagePull|ImagePullBackOff) +0 `) // The one becomes the other; a slow watcher may miss that.
	watch.types("\x03")
	s.until("kubectl get pod none --no-headers", `none +0/1 +ImagePullBackOff +0 +\S+`)
	s.until("kubectl get events --field-selector involvedObject.name=none -o jsonpath='{.items[*].message}'",
		`(?s).*Failed to pull image "`+regexp.QuoteMeta(image)+`": .*refused.*`)
	s.until("kubectl get events --field-selector involvedObject.name=none -o jsonpath='{.items[*].reason}'", `.*Pulling.*Failed.*BackOff.*`)

	s.do("kubectl run never --image=nobody/nothing --image-pull-policy=Never")
	s.until("kubectl get pod never --no-headers", `never +0/1 +ErrImageNeverPull +0 +\S+`)
}
