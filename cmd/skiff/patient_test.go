package main

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// A watch waits until there is a server and then begins; whoever asks once is told at once that there is none.
func TestWatchWaitsForTheServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	config := &rest.Config{Host: "http://" + address}
	client, err := newPatientClient(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); err == nil || ctx.Err() != nil {
		t.Errorf("a list from no server ends with %v (%v)", err, ctx.Err())
	}
	gone, leave := context.WithCancel(ctx)
	leave()
	if _, err := client.CoreV1().Pods("").Watch(gone, metav1.ListOptions{}); err == nil {
		t.Error("a watch that nobody wants any more went on")
	}
	type answer struct {
		kind string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		w, err := client.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{})
		if err != nil {
			answers <- answer{err: err}
			return
		}
		defer w.Stop()
		event := <-w.ResultChan()
		pod, _ := event.Object.(*v1.Pod)
		if pod != nil {
			answers <- answer{kind: string(event.Type) + " " + pod.Name}
			return
		}
		answers <- answer{kind: string(event.Type)}
	}()
	select {
	case a := <-answers:
		t.Fatalf("a watch of no server ended: %+v", a)
	case <-time.After(3 * firstKnock):
	}
	if listener, err = net.Listen("tcp", address); err != nil {
		t.Skipf("somebody else has taken the port: %v", err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"type":"ADDED","object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"}}}` + "\n"))
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	if a := <-answers; a.err != nil || a.kind != "ADDED web" {
		t.Errorf("the watch brought %+v, want ADDED web", a)
	}
}
