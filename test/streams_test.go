package test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// socket is a WebSocket to the API server, as those open it who have no kubectl: a web page, or a client in another language.
type socket struct {
	t    testing.TB
	conn *websocket.Conn
	text bool // Messages are in base64, and channels are digits.
}

// socket opens a WebSocket at a path of the namespace.
func (s *shell) socket(path, protocol string) *socket {
	s.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	identity, err := rest.TLSConfigFor(config)
	if err != nil {
		s.t.Fatal(err)
	}
	dialer := websocket.Dialer{
		TLSClientConfig: identity, Subprotocols: strings.Fields(protocol), HandshakeTimeout: patience,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialIn(ctx, s.netns, network, address)
		},
	}
	address := strings.Replace(config.Host, "https:", "wss:", 1) + "/api/v1/namespaces/" + s.space + path
	conn, resp, err := dialer.Dial(address, http.Header{})
	if err != nil {
		s.t.Fatalf("%s: %v (%+v)", address, err, resp)
	}
	s.t.Cleanup(func() { conn.Close() })
	if conn.Subprotocol() != protocol {
		s.t.Errorf("%s: the protocol is %q, want %q", path, conn.Subprotocol(), protocol)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	return &socket{s.t, conn, strings.Contains(protocol, "base64")}
}

// sends sends on a channel.
func (c *socket) sends(channel byte, data string) {
	c.t.Helper()
	kind, message := websocket.BinaryMessage, string([]byte{channel})+data
	if c.text {
		kind, message = websocket.TextMessage, string([]byte{'0' + channel})+base64.StdEncoding.EncodeToString([]byte(data))
	}
	if err := c.conn.WriteMessage(kind, []byte(message)); err != nil {
		c.t.Fatal(err)
	}
}

// reads gives the next message of a channel, empty ones too.
func (c *socket) reads() (channel byte, data string, err error) {
	c.t.Helper()
	_, message, err := c.conn.ReadMessage()
	if err != nil {
		return 0, "", err
	}
	if len(message) == 0 {
		c.t.Fatal("a message without a channel")
	}
	if !c.text {
		return message[0], string(message[1:]), nil
	}
	decoded, err := base64.StdEncoding.DecodeString(string(message[1:]))
	if err != nil {
		c.t.Fatalf("%q: %v", message, err)
	}
	return message[0] - '0', string(decoded), nil
}

// hears reads until the other end closes: what came on each channel.
func (c *socket) hears() map[byte]string {
	c.t.Helper()
	heard := map[byte]string{}
	for {
		channel, data, err := c.reads()
		if err != nil {
			if deadline, ok := err.(net.Error); ok && deadline.Timeout() {
				c.t.Fatalf("the connection has not ended; until now: %q", heard)
			}
			return heard
		}
		heard[channel] += data
	}
}

// testSockets runs a command over each protocol that Kubernetes has for raw WebSockets.
func testSockets(t *testing.T, s *shell) {
	s.do("kubectl apply -f deployment1.yaml")
	s.do("kubectl wait --for=condition=Available deployment/app1 --timeout=60s")
	pod := s.do("kubectl get pods -l app=app1 -o jsonpath={.items[0].metadata.name}")
	query := url.Values{"stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"},
		"command": {"sh", "-c", "head -n 1; echo to stderr >&2; exit 7"}}
	const told = "command terminated with non-zero exit code: command terminated with exit code 7"
	const status = `\{"metadata":\{\},"status":"Failure","message":"` + told + `","reason":"NonZeroExitCode","details":\{"causes":\[\{"reason":"ExitCode","message":"7"\}\]\}\}`
	for protocol, want := range map[string]string{
		"": told, "channel.k8s.io": told, "base64.channel.k8s.io": told,
		"v4.channel.k8s.io": status, "v4.base64.channel.k8s.io": status, "v5.channel.k8s.io": status,
	} {
		c := s.socket("/pods/"+pod+"/exec?"+query.Encode(), protocol)
		c.sends(0, "typed\n")
		heard := c.hears()
		if heard[1] != "typed\n" || heard[2] != "to stderr\n" || !matches(want, heard[3]) {
			t.Errorf("protocol %q: heard %q, want the status %s", protocol, heard, want)
		}
	}

	query.Set("command", "cat")
	c := s.socket("/pods/"+pod+"/exec?"+query.Encode(), "v5.channel.k8s.io")
	c.sends(0, "typed")
	c.sends(255, "\x00") // Nothing more comes on channel 0.
	if heard := c.hears(); heard[1] != "typed" || heard[3] != `{"metadata":{},"status":"Success"}` {
		t.Errorf("after the end of stdin: heard %q", heard)
	}

	testForwardSocket(t, s, pod)
	testLogSocket(t, s, pod)
}

// testForwardSocket reaches a port as two channels, one for data and one for errors, each of which begins with the port.
func testForwardSocket(t *testing.T, s *shell, pod string) {
	for _, protocol := range []string{"v4.channel.k8s.io", "v4.base64.channel.k8s.io"} {
		c := s.socket("/pods/"+pod+"/portforward?ports=80,81", protocol)
		c.sends(0, "GET / HTTP/1.0\r\n\r\n")
		heard := c.hears()
		if !matches(`(?s)P\x00HTTP/1\.1 200 OK.*Welcome to nginx!.*`, heard[0]) || heard[1] != "P\x00" {
			t.Errorf("protocol %q: port 80 gave %q and the error %q", protocol, heard[0], heard[1])
		}
		if heard[2] != "Q\x00" || !matches(`(?s)Q\x00.*connection refused.*`, heard[3]) {
			t.Errorf("protocol %q: port 81 gave %q and the error %q", protocol, heard[2], heard[3])
		}
	}
}

// testLogSocket follows a log that grows.
func testLogSocket(t *testing.T, s *shell, pod string) {
	for _, protocol := range []string{"binary.k8s.io", "base64.binary.k8s.io"} {
		c := s.socket("/pods/"+pod+"/log?follow=true&tailLines=0", protocol)
		if _, message, err := c.conn.ReadMessage(); err != nil || len(message) != 0 {
			t.Fatalf("protocol %q: first %q (%v), want an empty message", protocol, message, err)
		}
		mark := "/mark-" + protocol
		log := ""
		s.do(fmt.Sprintf("kubectl exec %s -- curl -s -o /dev/null http://127.0.0.1%s", pod, mark))
		for !strings.Contains(log, mark) {
			_, message, err := c.conn.ReadMessage()
			if err != nil {
				t.Fatalf("protocol %q: %v after %q", protocol, err, log)
			}
			if c.text {
				if message, err = base64.StdEncoding.DecodeString(string(message)); err != nil {
					t.Fatal(err)
				}
			}
			log += string(message)
		}
	}
}

// testForward opens a port of a pod on the machine of the one who asks.
func testForward(t *testing.T, s *shell) {
	s.do("kubectl apply -f deployment1.yaml -f service1.yaml")
	s.do("kubectl wait --for=condition=Available deployment/app1 --timeout=60s")
	overBoth(t, s, func(s *shell) {
		for _, of := range []string{"deploy/app1", "service/app1-service"} {
			term := s.terminal("kubectl port-forward " + of + " 8080:80")
			term.sees(`Forwarding from 127\.0\.0\.1:8080 -> 80`)
			s.says("curl -sS http://127.0.0.1:8080", welcome)
			s.says("for i in 1 2 3 4 5 6 7 8; do curl -sS -o /dev/null -w '%{http_code} ' http://127.0.0.1:8080 & done; wait", "(200 ){8}")
			term.types("\x03")
			term.ends(0)
		}
	})
}

// testAttach types to the first process of a pod, which ends when it has heard a line.
func testAttach(t *testing.T, s *shell) {
	n := 0
	overBoth(t, s, func(s *shell) {
		n++
		name := fmt.Sprintf("listener-%d", n)
		s.do("cat <<'EOF' | kubectl apply -f -\n" + fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  containers:
    - {name: c, image: busybox, stdin: true, command: [sh, -c, "read line; echo heard $line"]}
`, name) + "EOF")
		s.do("kubectl wait --for=condition=Ready pod/" + name + " --timeout=60s")
		s.says("echo typed | kubectl attach -i "+name, "heard typed")
	})
}

// testProxy reaches a pod, a Service and the node's agent through the API server, with no more than curl.
func testProxy(t *testing.T, s *shell) {
	s.do("kubectl apply -f deployment2.yaml -f service2.yaml")
	s.do("kubectl wait --for=condition=Available deployment/app2 --timeout=60s")
	pod := s.do("kubectl get pods -l app=app2 -o jsonpath={.items[0].metadata.name}")
	for name, path := range kubectls() {
		t.Run(name, func(t *testing.T) {
			s := s.with(t, path)
			term := s.terminal("kubectl proxy --port=8001")
			term.sees("Starting to serve on 127.0.0.1:8001")
			const root = "http://127.0.0.1:8001/api/v1"
			space := root + "/namespaces/" + s.space
			s.until("curl -sS "+space+"/services/app2-service:80/proxy/", welcome) // The endpoint may come after the pod.
			s.says("curl -sS "+space+"/services/http:app2-service:/proxy/", welcome)
			s.says("curl -sS "+space+"/pods/"+pod+"/proxy/", welcome)
			s.says("curl -sS "+space+"/pods/"+pod+":80/proxy/none", "(?s).*404 Not Found.*")
			s.says("curl -sS -X POST -o /dev/null -w '%{http_code}' "+space+"/pods/"+pod+"/proxy/", "405") // By nginx.
			s.says("curl -sS -o /dev/null -w '%{http_code}' "+space+"/pods/"+pod+":81/proxy/", "503")
			s.says("curl -sS "+root+"/nodes/"+nodeName+"/proxy/healthz", "ok")
			container := "app2-container"
			s.says("curl -sS "+root+"/nodes/"+nodeName+"/proxy/containerLogs/"+s.space+"/"+pod+"/"+container, "(?s).*GET / HTTP/1.1.*")
		})
	}
}
