package apiserver

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"skiff/api"
	"skiff/apiserver/custom"
	"skiff/apiserver/openapi"

	"github.com/go-chi/chi/v5"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// served is all that the server serves at a time. Definitions add to the table, so it is replaced as a whole.
type served struct {
	table     []*api.Resource         // Every row: the server's own, then those of definitions.
	routes    map[string]customRoutes // By the names of definitions.
	documents *openapi.Documents
}

// customRoutes are the routes of one kind, by path: "stable.example.com/v1/crontabs".
type customRoutes struct {
	kind   *customKind
	byPath map[string]http.Handler
}

func (s *Server) rows() []*api.Resource { return s.served.Load().table }

// serveCustom makes routes, discovery and documents those of the definitions that there are now. What has not changed stays.
func (s *Server) serveCustom() {
	before := s.served.Load()
	next := &served{routes: map[string]customRoutes{}}
	var rows []*api.Resource
	var described []*openapi.Custom
	for name, kind := range s.cache.custom.all() {
		routes := before.routes[name]
		if routes.kind != kind {
			routes = customRoutes{kind, s.routesOf(kind)}
		}
		next.routes[name] = routes
		rows = append(rows, kind.Served...)
		described = append(described, kind.Described...)
	}
	slices.SortFunc(rows, custom.Compare)
	next.table = append(slices.Clone(s.table), rows...)
	var err error
	if next.documents, err = before.documents.With(described); err != nil { // The kinds are served all the same.
		slog.Warn("the OpenAPI documents stay as they are", "err", err)
		next.documents = before.documents
	}
	s.served.Store(next)
}

// routesOf makes the routes of a kind's served versions.
func (s *Server) routesOf(k *customKind) map[string]http.Handler {
	byPath := map[string]http.Handler{}
	types := newSchemas(func() (map[string]json.RawMessage, error) {
		return s.served.Load().documents.DefinitionsOf(k.Described)
	}, nil)
	for _, r := range k.Served {
		mux := chi.NewRouter()
		members := chi.Chain(s.authenticate, onlyMembers)
		mux.NotFound(members.Handler(handler(notFoundPath)).ServeHTTP)
		mux.MethodNotAllowed(members.Handler(handler(methodNotAllowed)).ServeHTTP)
		s.resourceRoutes(mux.With(s.authenticate), r, &shelf{r, k.shelf.stock}, s.customOwnership(k, r, types))
		byPath[r.GroupVersion().String()+"/"+r.Name] = mux
	}
	return byPath
}

// customOwnership is newOwnership for a kind that knows its own types. Those of its scale are the server's.
func (s *Server) customOwnership(k *customKind, r *api.Resource, types schemas) ownership {
	o := newOwnership(r, append(slices.Clone(k.Served), k.Stored), types)
	if _, ok := o["scale"]; ok {
		o["scale"] = newRecordKeeper(scaleForm, "scale", formsOf(scaleForm, nil), s.schemas)
	}
	return o
}

// customRoutes answers what is not of the server's own table: by the routes of a definition, or as otherwise does.
func (s *Server) customRoutes(otherwise http.Handler) http.HandlerFunc {
	members := chi.Chain(s.authenticate, onlyMembers)
	discovery := members.Handler(handler(s.discoverCustom))
	return func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/apis/")
		parts := strings.Split(rest, "/")
		if ok && len(parts) <= 2 && r.Method == http.MethodGet {
			discovery.ServeHTTP(w, r)
			return
		}
		if !ok || len(parts) <= 2 {
			otherwise.ServeHTTP(w, r)
			return
		}
		h, err := s.customRoute(r, parts)
		switch {
		case err != nil:
			writeError(w, r, err)
		case h == nil:
			otherwise.ServeHTTP(w, r)
		default:
			h.ServeHTTP(w, r)
		}
	}
}

// customRoute is what answers a request for a custom resource, by the definitions that there are when it comes: another server
// may just have changed them. A stranger's request is refused in any case, and does not cost a question to the store.
func (s *Server) customRoute(r *http.Request, parts []string) (http.Handler, error) {
	h := s.served.Load().route(parts)
	if s.cache.newest == nil || h != nil && r.Method == http.MethodGet && !wantsNewest("get", r) {
		return h, nil
	}
	if _, known := s.whoAsks(r); !known {
		return h, nil
	}
	if err := s.cache.freshen(r.Context()); err != nil {
		return nil, err
	}
	return s.served.Load().route(parts), nil
}

// route finds the routes for GROUP/VERSION/RESOURCE/... and GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/...
func (s *served) route(parts []string) http.Handler {
	group, version, resource := parts[0], parts[1], parts[2]
	if resource == "namespaces" && len(parts) > 4 {
		resource = parts[4]
	}
	return s.routes[resource+"."+group].byPath[group+"/"+version+"/"+resource]
}

// discoverCustom answers for a group, or a version of it, that only definitions have.
func (s *Server) discoverCustom(w http.ResponseWriter, r *http.Request) error {
	if err := s.cache.freshen(r.Context()); err != nil {
		return err
	}
	d := discovery{table: s.rows()}
	group, version, one := strings.Cut(strings.TrimPrefix(r.URL.Path, "/apis/"), "/")
	gv := schema.GroupVersion{Group: group, Version: version}
	switch {
	case !one && group != "" && slices.Contains(groupNames(d.table), group):
		return d.group(group)(w, r)
	case one && slices.Contains(groupVersions(d.table), gv):
		return d.resources(gv)(w, r)
	}
	return notFoundPath(w, r)
}
