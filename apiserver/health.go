package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// health answers whether the server is well: that it answers at all, and, where there is a check, what this finds.
// https://kubernetes.io/docs/reference/using-api/health-checks/
func health(storeWorks func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		code, verdict, report := http.StatusOK, "passed", "[+]ping ok\n"
		if storeWorks != nil {
			if err := storeWorks(r.Context()); err != nil {
				slog.Error("health check failed", "check", "store", "err", err)
				code, verdict = http.StatusInternalServerError, "failed"
				report += "[-]store failed: reason withheld\n"
			} else {
				report += "[+]store ok\n"
			}
		}
		report += fmt.Sprintf("%s check %s\n", strings.TrimPrefix(r.URL.Path, "/"), verdict)
		if _, verbose := r.URL.Query()["verbose"]; !verbose && code == http.StatusOK {
			report = "ok"
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(report))
	}
}

// healthTimeout is how long the store may take to answer.
const healthTimeout = 2 * time.Second

// storeWorks fails if the store does not answer, or this server's memory does not follow it.
func (s *Server) storeWorks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	return s.cache.catchUp(ctx, s.shelf("namespaces"), "")
}
