package test

import (
	"maps"
	"strings"
	"testing"
)

// protocols are the two ways in which kubectl speaks to a container.
var protocols = map[string]string{"WebSocket": "true", "SPDY": "false"}

// overBoth runs a test once with each protocol, and each kubectl.
func overBoth(t *testing.T, s *shell, test func(*shell)) {
	for name, path := range kubectls() {
		for protocol, setting := range maps.All(protocols) {
			t.Run(name+" kubectl over "+protocol, func(t *testing.T) {
				s := s.with(t, path)
				s.env = append(s.env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+setting, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+setting)
				test(s)
			})
		}
	}
}

// testTerminal sits down at a shell in a container.
func testTerminal(t *testing.T, s *shell) {
	s.do("kubectl apply -f deployment1.yaml")
	s.do("kubectl wait --for=condition=Available deployment/app1 --timeout=60s")
	overBoth(t, s, func(s *shell) {
		term := s.terminal("kubectl exec -it deploy/app1 -- /bin/sh")
		term.sees("# ")
		term.types("tty; stty size\n")
		term.sees(`/dev/pts/\d+\r\n24 80\r\n# `) // The shell is back: what is typed earlier is shown before its prompt.
		term.resizes(132, 43)
		term.types("until stty size | grep '43 132'; do sleep 0.1; done\n")
		term.sees("\n43 132\r\n# ")
		term.types("echo before; sleep 1000\n")
		term.sees("\nbefore\r\n")
		term.types("\x03") // Ctrl-C ends the sleep, not the session.
		term.sees(`\^C\s+# `)
		term.types("echo status $?\n")
		term.sees("\nstatus 130\r\n")
		term.types("exit 42\n")
		term.sees("command terminated with exit code 42")
		term.ends(42)

		term = s.terminal("kubectl exec -it deploy/app1 -- cat")
		term.types("typed\n")
		term.sees("typed\r\ntyped\r\n") // By the terminal, and by cat.
		term.types("\x04")              // Ctrl-D is the end of what is typed.
		term.ends(0)
	})
}

// testStreams runs commands in a container without a terminal.
func testStreams(t *testing.T, s *shell) {
	s.do("kubectl apply -f deployment1.yaml")
	s.do("kubectl wait --for=condition=Available deployment/app1 --timeout=60s")
	overBoth(t, s, func(s *shell) {
		got := s.try("kubectl exec deploy/app1 -- sh -c 'echo to stdout; echo to stderr >&2; exit 7'")
		if got.stdout != "to stdout\n" || got.stderr != "to stderr\ncommand terminated with exit code 7\n" || got.status != 7 {
			s.t.Errorf("stdout %q, stderr %q, exit status %d", got.stdout, got.stderr, got.status)
		}
		s.says("echo passed on | kubectl exec -i deploy/app1 -- cat", "passed on")
		s.says("head -c 20000000 /dev/zero | kubectl exec -i deploy/app1 -- wc -c", "20000000")
		s.says("kubectl exec deploy/app1 -- head -c 20000000 /dev/zero | wc -c", "20000000")
		s.says("kubectl exec deploy/app1 -- cat", "") // Without -i there is nothing to read.
		if got := s.try("kubectl exec deploy/app1 -- no-such-program"); got.status == 0 || !strings.Contains(got.stderr, "no-such-program") {
			s.t.Errorf("a program that is not there: %v", got)
		}
	})
}
