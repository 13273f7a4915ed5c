// Package apiserver is the Kubernetes API over HTTP: what kubectl, client-go and skiff's own components speak to.
//
// A request makes three hops: the route (this file, made from the table in package api), the handler (handlers.go,
// subresources.go), and the store. Reads and watches are answered from memory (cache.go, shelf.go), which follows the store's
// watch; writes go through the one store with a compare-and-swap (write.go), and say in the object whose fields they set
// (fieldmanager.go, recordkeeper.go, apply.go). Nothing here knows a controller, the scheduler or an agent: between the halves there is
// only the API. What clients from outside the process may cost is bounded before all that (limits.go).
//
// In Kubernetes: kube-apiserver, that is k8s.io/apiserver with pkg/registry and pkg/controlplane. Left out so far:
// RBAC, quotas and limit ranges, admission webhooks and policies, conversion webhooks of custom resources, aggregated API
// servers, auditing, encryption at rest, and priority among requests (limits.go treats all alike).
package apiserver

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"skiff/api"
	"skiff/apiserver/openapi"
	"skiff/store"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// Config says how the API is served. All fields are required but those that say otherwise.
type Config struct {
	Version      version.Info   // What /version answers.
	ServiceCIDRs []netip.Prefix // Where Services get their addresses from: one range, or one of each family. The first is the default.
	NodePorts    PortRange      // Where they get their node ports from.
	Advertise    netip.AddrPort // Where pods reach the API: the endpoint of the Service "kubernetes". Of the default family.
	ClusterDNS   []netip.Addr   // Addresses of the Service "kube-dns", at most one of each family; without any there is none.
	// Issuer is who the tokens of ServiceAccounts are from, and who they are for where they don't say otherwise: a URL.
	Issuer     string
	AccountKey *ecdsa.PrivateKey // Signs those tokens. On the curve P-256.
	// ClientCA is who vouches for clients with certificates, in PEM: for servers in the cluster that let in whom this one does.
	ClientCA []byte // May be empty.
	// NodeTransport connects to nodes, which serve logs, exec, attach and port-forward. It has a certificate of ours.
	NodeTransport *http.Transport
	// Common are settings, each as NAME=VALUE, that all servers of one store must have the same. May be empty.
	Common     []string
	Collectors []prometheus.Collector // What /metrics tells besides what is the server's own. May be empty.
}

// Server serves the API from a store.
type Server struct {
	config     Config
	advertise  atomic.Pointer[netip.AddrPort] // See advertised.
	table      []*api.Resource
	cache      *cache
	templates  templates
	verdicts   verdicts
	snapshots  snapshots
	allocator  allocator
	peers      peers
	foundation foundation
	doubts     chan struct{} // Says that the records of Services are to be looked at.
	tokens     *tokens
	limits     limits
	schemas    schemas
	served     atomic.Pointer[served]
	metrics    *metrics
	transport  http.RoundTripper // Connects to pods, for the proxy subresources.
	handler    http.Handler      // What requests from this process go to; those from outside go through limits before.
}

// New reads the store and makes a Server. Run must be running before its handler is used.
func New(ctx context.Context, s store.Store, config Config) (*Server, error) {
	table := api.Table()
	withSchemas(table)
	c, err := newCache(ctx, s, table)
	if err != nil {
		return nil, err
	}
	documents, err := openapi.New(table)
	if err != nil {
		return nil, err
	}
	tokens, err := newTokens(config.Issuer, config.AccountKey)
	if err != nil {
		return nil, err
	}
	srv := &Server{
		tokens:     tokens,
		schemas:    newSchemas(documents.Definitions, api.Scheme),
		config:     config,
		table:      table,
		cache:      c,
		limits:     newLimits(),
		snapshots:  snapshots{most: snapshotBytes},
		transport:  newPodTransport(),
		allocator:  allocator{cidrs: config.ServiceCIDRs, ports: config.NodePorts},
		foundation: foundation{laid: make(chan struct{}), changed: make(chan struct{}, 1)},
		doubts:     make(chan struct{}, 1),
	}
	srv.advertise.Store(&config.Advertise)
	srv.served.Store(&served{table: table, documents: documents})
	srv.metrics = newMetrics(srv)
	srv.limits.dropped = srv.metrics.dropped
	srv.handler = srv.routes()
	c.custom.changed = srv.serveCustom
	srv.serveCustom()
	return srv, nil
}

// Run keeps the server's memory in step with the store and does its housekeeping until ctx ends. Then all watches end.
func (s *Server) Run(ctx context.Context) error {
	defer s.cache.closeWatchers()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.cache.run(ctx) })
	g.Go(func() error { return s.expireEvents(ctx) })
	g.Go(func() error { return s.followDefinitions(ctx) })
	g.Go(func() error { return s.keepPeers(ctx) })
	g.Go(func() error { return s.keepFoundation(ctx) })
	g.Go(func() error { return s.repair(ctx) })
	return g.Wait()
}

// ServeHTTP answers a request that came through TLS, within limits: its client certificate says who asks.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	growStack()
	s.limits.serve(s.handler, w, usual(r))
}

// growStack makes the stack of this goroutine large enough for a write at once. It would grow by doubling, and copy what is on
// it each time: HTTP/2 has a new goroutine for each request.
//
//go:noinline
func growStack() {
	var frame [stackOfRequest]byte
	touch(frame[:])
}

//go:noinline
func touch(b []byte) { b[0] = 1 }

const stackOfRequest = 16 << 10

// Forget makes the server's memory small: it drops encodings and OpenAPI documents, which are made again when asked for, and all
// but the newest of the past, so that whoever comes back to a watch after a long time lists again.
func (s *Server) Forget() {
	for _, sh := range s.cache.shelves() {
		sh.forget()
	}
	s.cache.encodings.dropAll()
	s.cache.alike.forget()
	s.templates.forget()
	s.verdicts.forget()
	s.served.Load().documents.Forget()
}

func (s *Server) shelf(groupResource string) *shelf { return s.cache.resources[groupResource] }

// routes makes the routes of all resources out of the table.
func (s *Server) routes() http.Handler {
	mux := chi.NewRouter()
	mux.Use(recoverPanics, routeDecoded, endInTime)
	paths := mux.With(s.metrics.observePath) // What is not about resources, which are observed one by one.
	s.healthRoutes(paths)
	paths.With(s.authenticate).Method(http.MethodGet, "/metrics", handler(s.serveMetrics))
	paths.Method(http.MethodGet, "/version", handler(s.version))

	known := chi.Chain(s.authenticate)
	members := chi.Chain(s.authenticate, onlyMembers)
	mux.NotFound(s.customRoutes(members.Handler(handler(notFoundPath))))
	mux.MethodNotAllowed(members.Handler(handler(methodNotAllowed)).ServeHTTP)
	s.discoveryRoutes(paths.With(members...))
	paths.With(known...).Method(http.MethodGet, SnapshotPath, handler(s.serveSnapshot))
	paths.With(members...).Method(http.MethodGet, "/.well-known/openid-configuration", handler(s.issuerDocument))
	paths.With(members...).Method(http.MethodGet, keysPath, handler(s.keysDocument))
	for _, r := range s.table {
		s.resourceRoutes(mux.With(known...), r, s.cache.shelf(r), newOwnership(r, s.table, s.schemas))
	}
	return mux
}

func (s *Server) discoveryRoutes(mux chi.Router) {
	mux.Method(http.MethodGet, "/", s.discover(func(d discovery) handler { return d.paths }))
	mux.Method(http.MethodGet, "/api", s.discover(func(d discovery) handler { return d.core }))
	mux.Method(http.MethodGet, "/apis", s.discover(func(d discovery) handler { return d.groups }))
	for _, gv := range groupVersions(s.table) {
		mux.Method(http.MethodGet, groupPath(gv), s.discover(func(d discovery) handler { return d.resources(gv) }))
	}
	for _, group := range groupNames(s.table) {
		if group != "" {
			mux.Method(http.MethodGet, "/apis/"+group, s.discover(func(d discovery) handler { return d.group(group) }))
		}
	}
	document := func(serve func(*openapi.Documents, http.ResponseWriter, *http.Request) error) handler {
		return func(w http.ResponseWriter, r *http.Request) error {
			if err := s.cache.freshen(r.Context()); err != nil {
				return err
			}
			return serve(s.served.Load().documents, w, r)
		}
	}
	mux.Method(http.MethodGet, "/openapi/v3", document((*openapi.Documents).Index))
	mux.Method(http.MethodGet, "/openapi/v3/*", document((*openapi.Documents).GroupVersion))
	mux.Method(http.MethodGet, "/openapi/v2", document((*openapi.Documents).V2))
}

// discover answers a request with what is served when it comes.
func (s *Server) discover(pick func(discovery) handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := s.cache.freshen(r.Context()); err != nil {
			return err
		}
		return pick(discovery{s.rows(), s.advertised().String()})(w, r)
	}
}

// groupPath is where a group's resources lie: /api/v1, /apis/apps/v1.
func groupPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.String()
}

// resourceRoutes routes what the row's verbs and subresources allow; everything else is 405 or 404.
func (s *Server) resourceRoutes(mux chi.Router, r *api.Resource, sh *shelf, owners ownership) {
	h := &resource{server: s, Resource: r, shelf: sh, owners: owners}
	base := groupPath(r.GroupVersion())
	all := base + "/" + r.Name
	one := all + "/{name}"
	if r.Namespaced {
		everywhere := h.getAll
		if r.Live {
			everywhere = h.listLive
		}
		if slices.Contains(r.Verbs, "list") {
			mux.Method(http.MethodGet, all, h.may("list", "", everywhere)) // Over all namespaces.
		}
		all = base + "/namespaces/{namespace}/" + r.Name
		one = all + "/{name}"
	}
	switch {
	case r.Review:
		h.reviewRoutes(mux, all)
		return
	case r.Live:
		mux.Method(http.MethodGet, all, h.may("list", "", h.listLive))
		mux.Method(http.MethodGet, one, h.may("get", "", h.getLive))
		return
	}
	byVerb := map[string]struct {
		method, path string
		handle       handler
	}{
		"get":              {http.MethodGet, one, h.getOne},
		"list":             {http.MethodGet, all, h.getAll},
		"create":           {http.MethodPost, all, h.post},
		"update":           {http.MethodPut, one, h.put},
		"patch":            {http.MethodPatch, one, h.patch},
		"delete":           {http.MethodDelete, one, h.deleteOne},
		"deletecollection": {http.MethodDelete, all, h.deleteAll},
	}
	for _, verb := range r.Verbs {
		if route, ok := byVerb[verb]; ok { // "watch" comes with "list".
			mux.Method(route.method, route.path, h.may(verb, "", route.handle))
		}
	}
	for _, sub := range r.Subs {
		h.subRoutes(mux, one+"/"+sub.Name, sub)
	}
}

// may has the request checked before it is handled.
func (h *resource) may(verb, sub string, next handler) handler {
	return h.server.metrics.observe(h.Resource, verb, sub, func(w http.ResponseWriter, r *http.Request) error {
		if namesNothing(r) {
			return notFoundPath(w, r)
		}
		v := verb
		if v == "list" && isWatch(r) {
			v = "watch"
		}
		if sub != "proxy" { // What is behind it may have other ideas of a query.
			if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
				return apierrors.NewBadRequest(fmt.Sprintf("the query cannot be read: %v", err)) // No parameter may be passed over.
			}
		}
		if h.Deprecated != "" {
			warn(w, h.Deprecated)
		}
		a := attributes{verb: v, resource: h.Resource, sub: sub, namespace: chi.URLParam(r, "namespace"), name: chi.URLParam(r, "name")}
		if a.name == "" {
			a.name = selectedName(r)
		}
		if !h.Custom && wantsNewest(v, r) { // For a custom resource it was done before its routes were looked up.
			if err := h.server.cache.freshen(r.Context()); err != nil {
				return err
			}
		}
		if err := h.server.authorize(r, a); err != nil {
			return err
		}
		return next(w, r)
	})
}

// namesNothing tells paths such as /api/v1/namespaces//pods: the router takes for a name what is empty, too.
func namesNothing(r *http.Request) bool {
	params := chi.RouteContext(r.Context()).URLParams
	for i, key := range params.Keys {
		if key != "*" && params.Values[i] == "" {
			return true
		}
	}
	return false
}

// selectedName is the one object that a list or watch is about, where its field selector names one: who may read that
// object may also watch it. "" otherwise.
func selectedName(r *http.Request) string {
	selector, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		return "" // The handler finds the words for it.
	}
	name, _ := selector.RequiresExactMatch(metav1.ObjectNameField)
	return name
}

func isWatch(r *http.Request) bool { return isTrue(r, "watch") }

// isTrue reads a parameter as Kubernetes' decoder reads truth values.
func isTrue(r *http.Request, parameter string) bool {
	v, ok := r.URL.Query()[parameter]
	return ok && v[0] != "0" && !strings.EqualFold(v[0], "false")
}

// version answers what this server is, as kubectl and client-go want to know.
func (s *Server) version(w http.ResponseWriter, r *http.Request) error {
	body, err := json.MarshalIndent(s.config.Version, "", "  ")
	if err != nil {
		return err
	}
	return respondBytes(w, r, typeJSON, http.StatusOK, body)
}
