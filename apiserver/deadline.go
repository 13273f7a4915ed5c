package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// mostTime is how long a client may ask a request to last; Kubernetes' default.
const mostTime = time.Minute

// endInTime ends a request when its client has stopped waiting for it, where it says so: ?timeout=10s. What lasts by itself,
// such as a watch, has no such end.
func endInTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.RawQuery, "timeout=") || longRunning(r) {
			next.ServeHTTP(w, r)
			return
		}
		timeout, err := askedTime(r.URL.Query().Get("timeout"))
		if err != nil {
			writeError(w, r, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func askedTime(value string) (time.Duration, error) {
	if value == "" {
		return mostTime, nil
	}
	asked, err := time.ParseDuration(value)
	switch {
	case err != nil:
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err))
	case asked <= 0 || asked > mostTime:
		return mostTime, nil
	}
	return asked, nil
}
