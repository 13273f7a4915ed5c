package test

import (
	"path/filepath"
	"testing"
)

// testHundredMegabytes sends 100 MiB through everything that a client has streams for, and looks whether they are the same at the other end.
func testHundredMegabytes(t *testing.T, s *shell) {
	file, back := filepath.Join(s.dir, "hundred"), filepath.Join(s.dir, "back")
	s.do("head -c 104857600 /dev/urandom > " + file)
	defer s.do("rm -f " + file + " " + back + "*")
	sum := s.do("sha256sum < " + file)
	s.do("kubectl apply -f - <<'EOF'\n" + bigPods + "EOF")
	s.do("kubectl wait --for=condition=Ready pod/server --timeout=60s")
	through := func(s *shell) {
		s.do("kubectl cp " + file + " server:/www/hundred")
		s.says("kubectl exec server -- sh -c 'sha256sum < /www/hundred'", sum)
		s.do("kubectl cp server:/www/hundred " + back + " && test -s " + back)
		s.says("sha256sum < "+back, sum)
		s.says("kubectl exec -i server -- cat < "+file+" | sha256sum", sum)
		term := s.terminal("kubectl port-forward server 8080:80")
		term.sees(`Forwarding from 127\.0\.0\.1:8080 -> 80`)
		s.says("curl -sS http://127.0.0.1:8080/hundred | sha256sum", sum)
		term.types("\x03")
		term.ends(0)
	}
	for protocol, setting := range protocols {
		t.Run(protocol, func(t *testing.T) {
			s := s.with(t, s.kubectl)
			s.env = append(s.env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+setting, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+setting)
			through(s)
		})
	}
	t.Run("attach, two clients", func(t *testing.T) {
		s := s.with(t, s.kubectl)
		s.do("kubectl wait --for=condition=Ready pod/echo --timeout=60s")
		one, two := back+"-one", back+"-two" // Not there before: the file begins only when the second client hears something.
		s.do("kubectl attach echo > " + one + " & (until test -s " + one + "; do echo hello; sleep 0.1; done; cat " + file + ") | kubectl attach -i echo > " + two + "; wait")
		for _, heard := range []string{one, two} {
			s.says("tail -c 104857600 "+heard+" | sha256sum", sum)
		}
	})
	t.Run("a client that is killed leaves no process", func(t *testing.T) {
		s := s.with(t, s.kubectl)
		processes := "kubectl exec server -- ps | grep -c '[s]leep 4321' || true"
		s.do("kubectl exec server -- sleep 4321 > /dev/null 2>&1 & client=$!; until kubectl exec server -- ps | grep -q '[s]leep 4321'; do sleep 0.1; done; kill -KILL $client")
		s.until(processes, "0")
	})
}

// bigPods are one that serves what is put into /www, and one that says what it is told.
const bigPods = `
apiVersion: v1
kind: Pod
metadata: {name: server}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: c, image: busybox, imagePullPolicy: Never, command: [httpd, -f, -p, "80", -h, /www], volumeMounts: [{name: www, mountPath: /www}]}
  volumes:
    - {name: www, emptyDir: {}}
---
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  restartPolicy: Never
  containers:
    - {name: c, image: busybox, imagePullPolicy: Never, stdin: true, stdinOnce: true, command: [cat]}
`
