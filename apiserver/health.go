package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"skiff/store"

	"github.com/go-chi/chi/v5"
)

// check is one thing that must be well.
type check struct {
	name  string
	works func(context.Context) error
}

func ping(context.Context) error { return nil }

// healthRoutes answers whether the server lives, and whether it is ready, as a whole and for each check.
// https://kubernetes.io/docs/reference/using-api/health-checks/
func (s *Server) healthRoutes(mux chi.Router) {
	alive := []check{{"ping", ping}}
	ready := append(alive, check{"store", s.storeWorks})
	for name, checks := range map[string][]check{"livez": alive, "readyz": ready, "healthz": ready} {
		mux.Get("/"+name, health(name, checks))
		for _, c := range checks {
			mux.Get("/"+name+"/"+c.name, oneCheck(c))
		}
	}
}

// health reports on all checks but those that the client excludes. Why one failed is in the log: anybody may ask.
func health(name string, checks []check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		excluded := slices.Clone(r.URL.Query()["exclude"])
		var report strings.Builder
		failed := false
		for _, c := range checks {
			if slices.Contains(excluded, c.name) {
				excluded = slices.DeleteFunc(excluded, func(name string) bool { return name == c.name })
				fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.name)
				continue
			}
			if err := c.works(r.Context()); err != nil {
				slog.Error("health check failed", "check", c.name, "err", err)
				failed = true
				fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", c.name)
				continue
			}
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
		if len(excluded) > 0 {
			fmt.Fprintf(&report, "warn: some health checks cannot be excluded: no matches for %s\n", quoted(excluded))
		}
		_, verbose := r.URL.Query()["verbose"]
		switch {
		case failed:
			healthText(w, http.StatusInternalServerError, report.String()+name+" check failed\n")
		case verbose:
			healthText(w, http.StatusOK, report.String()+name+" check passed\n")
		default:
			healthText(w, http.StatusOK, "ok")
		}
	}
}

func oneCheck(c check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := c.works(r.Context()); err != nil {
			slog.Error("health check failed", "check", c.name, "err", err)
			healthText(w, http.StatusInternalServerError, "internal server error: reason withheld\n")
			return
		}
		healthText(w, http.StatusOK, "ok")
	}
}

func healthText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(out, ",")
}

// healthTimeout is how long the store may take to answer.
const healthTimeout = 2 * time.Second

// storeWorks fails if the store does not answer, cannot write now, or is not followed by this server's memory.
func (s *Server) storeWorks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	// Nothing is under the empty name. A store that cannot write says that instead.
	if _, err := s.cache.store.Delete(ctx, s.shelf("namespaces").storeKey(""), 1); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return s.cache.catchUp(ctx, s.shelf("namespaces"), "")
}
