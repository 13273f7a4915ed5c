package test

import (
	"os"
	"path/filepath"
	"testing"
)

// testVolumeLessons takes the lessons of examples/volumes, in their order, and looks at the node's disk too.
func testVolumeLessons(t *testing.T, s *shell) {
	s.says("kubectl get storageclass --no-headers", `local \(default\) +local.skiff.io +Delete +WaitForFirstConsumer +true +\S+`)
	s.says("kubectl apply -f volumes/01-claim.yaml", `persistentvolumeclaim/data created\ndeployment.apps/diary created`) // And no warning.
	s.do("kubectl rollout status deployment/diary --timeout=60s")
	s.says("kubectl get pvc data --no-headers", `data +Bound +pvc-\S+ +100Mi +RWO +local +<unset> +\S+`)
	volume := s.do("kubectl get pvc data -o jsonpath={.spec.volumeName}")
	first := s.do("kubectl exec deploy/diary -- cat /data/diary")
	s.do("kubectl delete pod -l app=diary && kubectl rollout status deployment/diary --timeout=60s")
	s.until("kubectl exec deploy/diary -- cat /data/diary", first+`\ndiary-\S+`)
	s.do("kubectl delete pvc data --wait=false")
	s.says("kubectl get pvc data --no-headers", `data +Terminating .*`)
	s.do("kubectl delete -f volumes/01-claim.yaml")
	s.until("kubectl get pv "+volume+" 2>&1 || true", `Error from server \(NotFound\): .*`)
	if left, err := filepath.Glob(filepath.Join(s.data, "volumes", "*")); err != nil || len(left) > 0 {
		t.Errorf("after the claim is gone the node still has %q (%v)", left, err)
	}

	s.says("kubectl apply -f volumes/02-projected.yaml", `configmap/settings created\npod/teller created`)
	s.do("kubectl wait --for=condition=Ready pod/teller --timeout=60s")
	s.says("kubectl exec teller -- sh -c 'cd /etc/me; cat colour name'", "blueteller")
	s.do("kubectl patch configmap settings -p '{\"data\":{\"colour\":\"green\"}}'")
	s.until("kubectl exec teller -- cat /etc/me/colour", "green")
	token := s.do("kubectl exec teller -- cat /etc/me/token")
	review := `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"` + token + `","audiences":["vault"]}}`
	s.says("echo '"+review+"' | kubectl create -o jsonpath='{.status.user.username} {.status.audiences[0]}{.status.error}' -f -", "system:serviceaccount:"+s.space+":default vault")

	s.says("kubectl apply -f volumes/03-ephemeral.yaml", `pod/sorter created`)
	s.do("kubectl wait --for=condition=Ready pod/sorter --timeout=60s")
	s.says("kubectl get pvc sorter-room --no-headers", `sorter-room +Bound .*`)
	room := s.do("kubectl get pvc sorter-room -o jsonpath={.spec.volumeName}")
	s.do("kubectl exec sorter -- sh -c 'echo x >/room/file; ln -s /etc /part/link'")
	if _, err := os.Stat(filepath.Join(s.data, "volumes", room, "file")); err != nil {
		t.Errorf("what the pod has written is not in its volume: %v", err)
	}

	s.says("kubectl apply -f volumes/04-image.yaml", `pod/reader created`)
	s.do("kubectl wait --for=condition=Ready pod/reader --timeout=60s")
	s.says("kubectl exec reader -- ls /nginx/etc/nginx/nginx.conf", "/nginx/etc/nginx/nginx.conf")
	s.fails("kubectl exec reader -- touch /nginx/etc/nginx/nginx.conf", 1, `(?s).*Read-only file system.*`)
	s.fails("kubectl exec reader -- /nginx/bin/sh -c true", 1, `(?s).*permission denied.*`)
	s.do("kubectl delete --ignore-not-found -f volumes/")
	s.until("kubectl get pv "+room+" 2>&1 || true", `Error from server \(NotFound\): .*`)
}

// testPathAttacks has a container put links into volumes of each kind, through which another one would see the node. It is not
// started, and is told why; a path that says where it leads is refused at once.
func testPathAttacks(t *testing.T, s *shell) {
	host := filepath.Join(s.dir, "shared")
	thief := func(subPath string) string {
		return "sed -e 's#SUBPATH#" + subPath + "#; s#HOSTPATH#" + host + "#' " + repository("test/testdata/thief.yaml") + " | kubectl apply -f -"
	}
	for _, subPath := range []string{"root", "root/etc", "up", "up/etc", "in/etc", "in/etc/passwd"} {
		s.do(thief(subPath))
		s.until("kubectl get pod thief -o jsonpath='{.status.containerStatuses[*].state.waiting.reason}'",
			"CreateContainerConfigError CreateContainerConfigError CreateContainerConfigError CreateContainerConfigError")
		s.says("kubectl get pod thief -o jsonpath='{.status.containerStatuses[*].state.waiting.message}'",
			`(failed to prepare subPath for volumeMount "\w+" of container "\w+": open `+subPath+`: [a-z -]+ ?){4}`)
		s.do("kubectl delete pod thief && rm -r " + host)
	}
	for _, subPath := range []string{"../x", "in/../../x", "/etc"} {
		s.fails(thief(subPath), 1, `(?s).*spec.containers\[0\].volumeMounts.subPath: Invalid value: "`+subPath+`": must.*`)
	}
}

// testDeclaredVolumes writes to what an image declares as its volumes, where the container cannot write otherwise. They begin with what
// the image has there, and a container that starts again begins anew.
func testDeclaredVolumes(t *testing.T, s *shell) {
	s.do("kubectl apply -f " + repository("test/testdata/declaring.yaml"))
	s.do("kubectl wait --for=condition=Ready pod/declaring --timeout=60s")
	s.fails("kubectl exec declaring -- touch /here", 1, `(?s).*Read-only file system.*`)
	s.says("kubectl exec declaring -- sh -c 'touch /new/file /etc/file && grep -c ^root: /etc/passwd && cat /etc/hostname'", "1\ndeclaring")
	s.do("kubectl exec declaring -- touch /new/end")
	s.until("kubectl get pod declaring -o jsonpath={.status.containerStatuses[0].restartCount}{.status.containerStatuses[0].ready}", "1true")
	s.says("kubectl exec declaring -- ls /new", "")
}
