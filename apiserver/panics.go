package apiserver

import (
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
)

// errPanicked is what whoever waits for the outcome hears. Where it was and why only the log says.
var errPanicked = errors.New("the server panicked; its log says where")

// recoverPanics keeps one broken request from ending the server. Of an answer that has begun, the rest is missing: it is broken
// off, so that nobody takes a part of a list or a watch for all of it.
func recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &codeSeen{ResponseWriter: w}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v != http.ErrAbortHandler { // Compared as net/http does.
				slog.Error("panic in a request", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			}
			if v == http.ErrAbortHandler || seen.code != 0 {
				panic(http.ErrAbortHandler)
			}
			writeError(w, r, errPanicked)
		}()
		next.ServeHTTP(seen, r)
	})
}

// recovered is f for a goroutine of its own, whose panic would end the server, whatever there is around its request.
func recovered(doing string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			slog.Error("panic", "doing", doing, "panic", v, "stack", string(debug.Stack()))
			err = errPanicked
		}
	}()
	return f()
}
