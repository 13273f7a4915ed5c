package apiserver

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// routeDecoded has requests routed by their path as it reads: some clients write the colon of "system:node" as %3A.
func routeDecoded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = usual(r)
		chi.RouteContext(r.Context()).RoutePath = r.URL.Path
		next.ServeHTTP(w, r)
	})
}

// usual is a request in the way that it is made most. Kubernetes takes it in others, too: a slash at the end of an API's path
// says nothing, and what is now said by ?watch=true was once a part of the path.
func usual(r *http.Request) *http.Request {
	path := r.URL.Path
	slash, watch := strings.HasSuffix(path, "/"), strings.Contains(path, "/watch/")
	known := strings.HasPrefix(path, "/api") || path == "/version/"
	if !slash && !watch || !known || subresourceOf(path) == "proxy" { // What is behind a proxy reads paths by itself.
		return r
	}
	u := *r.URL
	u.Path, u.RawPath = strings.TrimSuffix(path, "/"), ""
	if watch && r.Method == http.MethodGet {
		u = watched(u)
	}
	same := *r
	same.URL = &u
	return &same
}

// watched is the URL of a list for the older one of a watch: /api/v1/watch/..., where the last part of an even number of them is
// the name of the one object to be watched. https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
func watched(u url.URL) url.URL {
	parts := strings.Split(u.Path, "/")
	at := 3 // Of what comes after /api/v1.
	if parts[1] == "apis" {
		at = 4 // After /apis/GROUP/VERSION.
	}
	if len(parts) <= at+1 || parts[at] != "watch" {
		return u
	}
	query := u.Query()
	query.Set("watch", "true")
	rest := parts[at+1:]
	if len(rest)%2 == 0 {
		selectors := []string{metav1.ObjectNameField + "=" + rest[len(rest)-1]}
		if given := query.Get("fieldSelector"); given != "" {
			selectors = append(selectors, given)
		}
		query.Set("fieldSelector", strings.Join(selectors, ","))
		rest = rest[:len(rest)-1]
	}
	u.Path = strings.Join(slices.Concat(parts[:at], rest), "/")
	u.RawQuery = query.Encode()
	return u
}
