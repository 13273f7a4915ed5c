package apiserver

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"net/http/httptest"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dial opens a WebSocket to a path of the API.
func dial(t *testing.T, web *httptest.Server, path string, protocols ...string) *websocket.Conn {
	t.Helper()
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Subprotocols: protocols, HandshakeTimeout: patience}
	c, resp, err := dialer.Dial("wss"+strings.TrimPrefix(web.URL, "https")+path, http.Header{"Origin": {web.URL}})
	if err != nil {
		t.Fatalf("%s: %v, %+v", path, err, resp)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A watch over a WebSocket has an event a message.
func TestWatchOverWebSocket(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	c := dial(t, s.web(t), configMapsPath+"?watch=true")
	for _, want := range []string{"a", "b"} {
		kind, message, err := c.ReadMessage()
		var ev metav1.WatchEvent
		var obj metav1.PartialObjectMetadata
		if err == nil {
			err = json.Unmarshal(message, &ev)
		}
		if err == nil {
			err = json.Unmarshal(ev.Object.Raw, &obj)
		}
		if err != nil || kind != websocket.TextMessage || ev.Type != "ADDED" || obj.Name != want {
			t.Fatalf("message %s of type %d, %v; want one of %s", message, kind, err, want)
		}
		if want == "a" {
			s.createConfigMap(t, "b")
		}
	}
	c.Close()
	sh := s.shelf("configmaps")
	eventually(t, "the server has noticed that the client went", func() bool {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return len(sh.watchers) == 0
	})
}

// A log comes over a WebSocket in the two protocols that Kubernetes has for what is read only.
func TestLogOverWebSocket(t *testing.T) {
	s, _ := proxied(t)
	node := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "a line\n") }))
	t.Cleanup(node.Close)
	s.config.NodeTransport = (&pretend{secure: node.Listener.Addr().String()}).transport()
	web := s.web(t)
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Subprotocols: []string{"v9.example"}}
	if _, resp, err := dialer.Dial("wss"+strings.TrimPrefix(web.URL, "https")+podsPath+"/web/log", http.Header{"Origin": {web.URL}}); err == nil || resp.StatusCode != 403 {
		t.Errorf("a protocol that is none of ours: %v", err)
	}
	for _, protocol := range []string{"", "binary.k8s.io", "base64.binary.k8s.io"} {
		var protocols []string
		if protocol != "" {
			protocols = []string{protocol}
		}
		c := dial(t, web, podsPath+"/web/log?container=c", protocols...)
		if got := c.Subprotocol(); got != protocol {
			t.Errorf("asked for %q, got %q", protocol, got)
		}
		var got []byte
		for {
			_, message, err := c.ReadMessage()
			if err != nil {
				break
			}
			got = append(got, message...)
		}
		if protocol == "base64.binary.k8s.io" {
			got, _ = base64.StdEncoding.DecodeString(string(got))
		}
		if string(got) != "a line\n" {
			t.Errorf("%q: the log is %q", protocol, got)
		}
	}
}
