package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// components is what the server can say of the cluster's parts from what it sees itself: that is the store, which goes by
// the name that Kubernetes has for it. Controllers and scheduler are clients, which no server needs to know of.
func (s *Server) components(ctx context.Context) []*item {
	healthy := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := s.storeWorks(ctx); err != nil {
		healthy = corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse, Error: err.Error()}
	}
	store := &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: "etcd-0"}, Conditions: []corev1.ComponentCondition{healthy}}
	store.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ComponentStatus"))
	return []*item{{key: store.Name, obj: store}}
}

// live is how to look at what the rows show that are not stored: all of a namespace, or the one that is named.
func (h *resource) live(ctx context.Context, namespace, name string) []*item {
	switch h.Kind {
	case "NodeMetrics":
		return h.server.nodeUsage(ctx, namespace, name)
	case "PodMetrics":
		return h.server.podUsage(ctx, namespace, name)
	}
	return h.server.components(ctx)
}

func (h *resource) listLive(w http.ResponseWriter, r *http.Request) error {
	sel, o, err := h.selection(r)
	if err != nil {
		return err
	}
	if o.Watch {
		return methodNotAllowed(w, r)
	}
	items := slices.DeleteFunc(h.live(r.Context(), chi.URLParam(r, "namespace"), ""), func(it *item) bool { return !sel.match(it) })
	return serveList(w, r, h.Resource, page{items: items, rev: h.server.cache.revision()})
}

func (h *resource) getLive(w http.ResponseWriter, r *http.Request) error {
	key := objectKey(chi.URLParam(r, "namespace"), chi.URLParam(r, "name"))
	items := h.live(r.Context(), chi.URLParam(r, "namespace"), chi.URLParam(r, "name"))
	i := slices.IndexFunc(items, func(it *item) bool { return it.key == key })
	switch {
	case i >= 0:
		return serveItem(w, r, h.Resource, http.StatusOK, items[i])
	case h.Group == metricsv1beta1.GroupName: // As metrics-server says it.
		return apierrors.NewNotFound(metricsv1beta1.Resource(strings.ToLower(h.Kind)), key)
	}
	return apierrors.NewNotFound(h.GroupResource(), key)
}
