package apiserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// logs streams a container's log. A pod that has no node yet has none: that is no error.
func (h *resource) logs(w http.ResponseWriter, r *http.Request) error {
	if err := checkLogOptions(r.URL.Query(), chi.URLParam(r, "name")); err != nil {
		return err
	}
	to, err := h.at(r, "containerLogs", true)
	if none := (*nowhere)(nil); errors.As(err, &none) {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, to.String(), nil)
	if err != nil {
		return err
	}
	resp, err := h.server.config.NodeTransport.RoundTrip(req)
	if err != nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("ask node for the log: %v", err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nodeRefused(resp)
	}
	if wsstream.IsWebSocketRequest(r) {
		h.server.logSocket(w, r, resp.Body)
		return nil
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	h.server.copyFlushing(w, resp.Body)
	return nil
}

// checkLogOptions judges what is asked of a log, before anybody looks where it is.
func checkLogOptions(query url.Values, pod string) error {
	var errs field.ErrorList
	for _, number := range []struct {
		name  string
		least int64
		why   string
	}{
		{"tailLines", 0, "must be greater than or equal to 0"},
		{"limitBytes", 1, "must be greater than 0"},
		{"sinceSeconds", 1, "must be greater than 0"},
	} {
		text := query.Get(number.name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		if n < number.least {
			errs = append(errs, field.Invalid(field.NewPath(number.name), n, number.why))
		}
	}
	if text := query.Get("sinceTime"); text != "" {
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		if query.Has("sinceSeconds") {
			errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
		}
	}
	streams := []string{corev1.LogStreamAll, corev1.LogStreamStderr, corev1.LogStreamStdout}
	if stream := query.Get("stream"); stream != "" && !slices.Contains(streams, stream) {
		errs = append(errs, field.NotSupported(field.NewPath("stream"), stream, streams))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, pod, errs)
	}
	return nil
}

// copyFlushing passes on what comes as it comes: a followed log must not wait for a full buffer. A client that stops reading
// is cut off.
func (s *Server) copyFlushing(w http.ResponseWriter, from io.Reader) {
	control := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_ = control.SetWriteDeadline(time.Now().Add(s.limits.frame))
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			_ = control.Flush()
			_ = control.SetWriteDeadline(time.Time{})
		}
		if err != nil {
			return
		}
	}
}
