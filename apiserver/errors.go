package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"skiff/store"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// handler is an HTTP handler that may fail; serve turns its error into a Status.
type handler func(w http.ResponseWriter, r *http.Request) error

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h(w, r); err != nil {
		writeError(w, r, err)
	}
}

// writeError answers with the Status that err is, or becomes.
// https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	// That the store takes no writes it says once itself, and not for each request.
	if status.Code == http.StatusInternalServerError && status.Reason != metav1.StatusReasonUnknown && !errors.Is(err, store.ErrRefused) {
		slog.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(d.RetryAfterSeconds)))
	}
	if err := respond(w, r, int(status.Code), status); err != nil {
		_ = respondJSON(w, int(status.Code), status) // The client accepts nothing we speak: it gets JSON.
	}
}

func respondJSON(w http.ResponseWriter, code int, obj *metav1.Status) error {
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(code)
	return jsonSerializer.Encode(obj, w)
}

func statusOf(err error) *metav1.Status {
	var known apierrors.APIStatus
	var status metav1.Status
	switch {
	case errors.As(err, &known):
		status = known.Status()
	case errors.Is(err, errOpenOutcome):
		status = apierrors.NewTimeoutError(err.Error(), 0).Status() // Not to be repeated blindly.
	case errors.Is(err, store.ErrUnavailable):
		status = apierrors.NewServiceUnavailable(err.Error()).Status()
		status.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
	case errors.Is(err, store.ErrTooLarge):
		status = apierrors.NewRequestEntityTooLargeError(err.Error()).Status()
	case errors.Is(err, store.ErrClosed):
		status = errStopped.Status()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		status = apierrors.NewTimeoutError("the request ended before it was done", 0).Status()
	default:
		status = apierrors.NewInternalError(err).Status()
	}
	status.Kind, status.APIVersion = "Status", "v1"
	return &status
}

// unclassified is an error of the client's to which Kubernetes gives no reason of its own, and so the code of one of the server's.
func unclassified(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonUnknown, Message: err.Error(),
	}}
}

// notFoundPath is the answer for a path that the server does not have.
func notFoundPath(_ http.ResponseWriter, _ *http.Request) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
	}}
}

func methodNotAllowed(_ http.ResponseWriter, _ *http.Request) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: "the server does not allow this method on the requested resource", Details: &metav1.StatusDetails{},
	}}
}
