package main

import (
	"errors"
	"net"
	"net/http"
	"time"
)

// patient lets a watch wait for an API server that is not there. What client-go would do, trying again after half a minute and then
// some, would have a component hear of what is new only so long after the server's return.
type patient struct{ http.RoundTripper }

// How soon the server is looked for again: doubling up to the longest.
const (
	firstKnock = 50 * time.Millisecond
	lastKnock  = 2 * time.Second
)

// RoundTrip implements [http.RoundTripper].
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for pause := firstKnock; ; pause = min(2*pause, lastKnock) {
		response, err := p.RoundTripper.RoundTrip(r)
		if err == nil || !watches(r) || !nobodyThere(err) {
			return response, err
		}
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(pause):
		}
	}
}

// WrappedRoundTripper tells client-go what is below.
func (p patient) WrappedRoundTripper() http.RoundTripper { return p.RoundTripper }

func watches(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Query().Get("watch") == "true"
}

// nobodyThere says that a request failed before anything of it was sent.
func nobodyThere(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
