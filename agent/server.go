package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	v1 "k8s.io/api/core/v1"
)

// apiServerName is the common name of the API server's client certificate. Besides it, only administrators are let in.
const (
	apiServerName = "system:skiff-apiserver"
	adminGroup    = "system:masters"
)

// headerTime bounds how long a client may take to say what it wants.
const headerTime = 10 * time.Second

// serve answers the API server until ctx ends. An error means that it could not go on.
func (a *Agent) serve(ctx context.Context) error {
	config := a.TLS.Clone()
	config.NextProtos = []string{"http/1.1"} // Exec, attach and port-forward take over the connection, which HTTP/2 has no way for.
	server := &http.Server{
		Handler:           a.routes(),
		TLSConfig:         config,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       time.Minute, // Whoever reaches the port may open a connection; none may keep it for nothing.
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	defer a.sessions.Wait()
	if err := server.Serve(tls.NewListener(a.listener, config)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API server: %w", err)
	}
	return nil
}

// routes has the kubelet's paths.
func (a *Agent) routes() http.Handler {
	r := chi.NewRouter()
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	r.Group(func(r chi.Router) {
		r.Use(onlyAPIServer)
		r.Get("/stats/summary", a.serveSummary)
		r.Method(http.MethodGet, "/metrics", a.metricsHandler())
		r.Method(http.MethodGet, "/metrics/resource", a.resourceMetricsHandler())
		r.Method(http.MethodGet, "/metrics/cadvisor", a.cadvisorHandler())
		r.Get("/pods", a.servePods)
		r.Get("/pods/", a.servePods)
		r.Get("/runningpods", a.serveRunningPods)
		r.Get("/runningpods/", a.serveRunningPods)
		r.Get("/containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r.With(a.asSession).MethodFunc(method, "/exec/{namespace}/{pod}/{container}", a.serveExec)
			r.With(a.asSession).MethodFunc(method, "/attach/{namespace}/{pod}/{container}", a.serveAttach)
			r.With(a.asSession).MethodFunc(method, "/portForward/{namespace}/{pod}", a.servePortForward)
		}
	})
	return r
}

// onlyAPIServer lets in who has shown a certificate of the cluster's CA that names the API server or an administrator.
func onlyAPIServer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		subject := r.TLS.VerifiedChains[0][0].Subject
		if subject.CommonName != apiServerName && !slices.Contains(subject.Organization, adminGroup) {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, path=%s)", subject.CommonName, r.Method, r.URL.Path), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// failure of a request, with its HTTP status.
type httpError struct {
	status  int
	message string
}

func (e *httpError) Error() string { return e.message }

func refuse(status int, format string, args ...any) error {
	return &httpError{status, fmt.Sprintf(format, args...)}
}

// respondError turns an error into a response; the API server passes its text on.
func respondError(w http.ResponseWriter, err error) {
	var refused *httpError
	if errors.As(err, &refused) {
		http.Error(w, refused.message, refused.status)
		return
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// respondJSON answers with an object.
func respondJSON(w http.ResponseWriter, object any) {
	body, err := json.Marshal(object)
	if err != nil {
		respondError(w, fmt.Errorf("encode the answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // Who has gone need not be told.
}

// podOf finds the pod that a request names.
func (a *Agent) podOf(r *http.Request) (*v1.Pod, error) {
	namespace, name := chi.URLParam(r, "namespace"), chi.URLParam(r, "pod")
	object, ok, err := a.pods.GetIndexer().GetByKey(namespace + "/" + name)
	if err != nil {
		return nil, fmt.Errorf("find pod %s/%s: %w", namespace, name, err)
	}
	if pod, _ := object.(*v1.Pod); ok && pod.Spec.NodeName == a.NodeName {
		if static := a.statics.get(pod.Annotations[v1.MirrorPodAnnotationKey]); static != nil && static.Namespace == namespace && static.Name == name {
			return seenOfStatic(static, pod), nil
		}
		return pod, nil
	}
	return nil, refuse(http.StatusNotFound, "pod %q does not exist", name)
}

// containerOf finds the container that a request names, as it is now. previous asks for the one before it.
func (a *Agent) containerOf(r *http.Request, previous bool) (*v1.Pod, *Container, error) {
	pod, err := a.podOf(r)
	if err != nil {
		return nil, nil, err
	}
	name := chi.URLParam(r, "container")
	if !slices.ContainsFunc(allContainers(&pod.Spec), func(c *v1.Container) bool { return c.Name == name }) {
		return nil, nil, refuse(http.StatusNotFound, "container %q not found in pod %q", name, pod.Name)
	}
	containers, err := a.runtime.PodContainers(r.Context(), string(pod.UID))
	if err != nil {
		return nil, nil, err
	}
	s := seen{pod: pod, containers: containers}
	past := s.past(name)
	attempts := slices.DeleteFunc(s.attempts(name), func(c *Container) bool { return c.State == Created })
	waits := past != nil && past.State.Waiting != nil && len(attempts) > 0 && attempts[0].State == Exited
	switch {
	case previous && waits: // For its restart: then what is its last state is previous, too.
		return pod, attempts[0], nil
	case previous && len(attempts) < 2:
		return nil, nil, refuse(http.StatusBadRequest, "previous terminated container %q in pod %q not found", name, pod.Name)
	case previous:
		return pod, attempts[1], nil
	case len(attempts) == 0:
		return nil, nil, refuse(http.StatusBadRequest, "container %q in pod %q is waiting to start: %s", name, pod.Name, whyNotStarted(past))
	}
	return pod, attempts[0], nil
}

// whyNotStarted says in the kubelet's words what a container waits for.
func whyNotStarted(past *v1.ContainerStatus) string {
	if past == nil || past.State.Waiting == nil {
		return reasonCreating
	}
	switch reason := past.State.Waiting.Reason; reason {
	case reasonPull:
		return "image can't be pulled"
	case reasonPullBackoff:
		return "trying and failing to pull image"
	default:
		return reason
	}
}

// serveLogs answers `kubectl logs`.
func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	options, previous, err := parseLogOptions(r, time.Now())
	if err != nil {
		respondError(w, err)
		return
	}
	pod, c, err := a.containerOf(r, previous)
	if err != nil {
		respondError(w, err)
		return
	}
	alive := func(ctx context.Context) (bool, <-chan struct{}) { return a.alive(ctx, string(pod.UID), c.ID) }
	w.Header().Set("Content-Type", "text/plain")
	out := &flushingWriter{w: w, flush: options.follow}
	err = readLog(r.Context(), c.LogPath, options, out, alive)
	if err != nil && !errors.Is(err, errLimit) && !out.begun {
		if errors.Is(err, os.ErrNotExist) {
			err = refuse(http.StatusInternalServerError, "the log of container %q in pod %q is not there", c.Name, pod.Name)
		}
		respondError(w, err)
	}
}

// alive says whether a container runs, and returns the bell for when that may have changed.
func (a *Agent) alive(ctx context.Context, uid, id string) (bool, <-chan struct{}) {
	rung := a.exits.next(uid)
	containers, err := a.runtime.PodContainers(ctx, uid)
	if err != nil {
		return true, rung
	}
	return slices.ContainsFunc(containers, func(c Container) bool { return c.ID == id && c.alive() }), rung
}

// parseLogOptions reads the query of a log request: v1.PodLogOptions as the API server passes them on.
func parseLogOptions(r *http.Request, now time.Time) (o logOptions, previous bool, err error) {
	query := r.URL.Query()
	o.tail = -1
	said := func(name string) bool { // As Kubernetes reads truth values.
		v, ok := query[name]
		return ok && v[0] != "0" && !strings.EqualFold(v[0], "false")
	}
	o.follow, o.timestamps, previous = said("follow"), said("timestamps"), said("previous")
	for name, field := range map[string]*int64{"tailLines": &o.tail, "limitBytes": &o.limit} {
		if text := query.Get(name); text != "" {
			if *field, err = strconv.ParseInt(text, 10, 64); err != nil || *field < 0 {
				return o, false, refuse(http.StatusUnprocessableEntity, "%s: invalid value %q", name, text)
			}
		}
	}
	if text := query.Get("sinceSeconds"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 1 {
			return o, false, refuse(http.StatusUnprocessableEntity, "sinceSeconds: invalid value %q", text)
		}
		o.since = now.Add(-time.Duration(seconds) * time.Second)
	}
	if text := query.Get("sinceTime"); text != "" {
		if o.since, err = time.Parse(time.RFC3339, text); err != nil {
			return o, false, refuse(http.StatusUnprocessableEntity, "sinceTime: invalid value %q", text)
		}
	}
	switch text := query.Get("stream"); text {
	case "", v1.LogStreamAll:
	case v1.LogStreamStdout:
		o.stream = "stdout"
	case v1.LogStreamStderr:
		o.stream = "stderr"
	default:
		return o, false, refuse(http.StatusUnprocessableEntity, "stream: invalid value %q", text)
	}
	return o, previous, nil
}

// flushingWriter sends what is written to it on at once where flush is set.
type flushingWriter struct {
	w     http.ResponseWriter
	flush bool
	begun bool
}

func (f *flushingWriter) Write(p []byte) (int, error) {
	f.begun = true
	return f.w.Write(p)
}

// Flush sends on what is buffered.
func (f *flushingWriter) Flush() {
	if flusher, ok := f.w.(http.Flusher); ok && f.flush {
		f.begun = true
		flusher.Flush()
	}
}
