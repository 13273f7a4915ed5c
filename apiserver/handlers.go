package apiserver

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"

	"skiff/api"

	"github.com/go-chi/chi/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// resource handles the requests for one row of the table.
type resource struct {
	*api.Resource
	server *Server
	shelf  *shelf
}

func (h *resource) key(r *http.Request) string {
	return objectKey(chi.URLParam(r, "namespace"), chi.URLParam(r, "name"))
}

func (h *resource) find(r *http.Request) (*item, error) {
	it := h.shelf.get(h.key(r))
	if it == nil {
		return nil, apierrors.NewNotFound(h.GroupResource(), chi.URLParam(r, "name"))
	}
	return it, nil
}

// getAll lists or watches.
func (h *resource) getAll(w http.ResponseWriter, r *http.Request) error {
	sel, err := parseSelection(h.Resource, chi.URLParam(r, "namespace"), r.URL.Query())
	if err != nil {
		return err
	}
	if isWatch(r) {
		return h.server.serveWatch(w, r, h.shelf, sel)
	}
	return h.server.serveList(w, r, h.shelf, sel)
}

func (h *resource) getOne(w http.ResponseWriter, r *http.Request) error {
	rev, err := parseRevision(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return err
	}
	if err := h.server.reach(r.Context(), rev); err != nil {
		return err
	}
	it, err := h.find(r)
	if err != nil {
		return err
	}
	return serveItem(w, r, h.Resource, http.StatusOK, it)
}

// write is what POST, PUT and PATCH have in common.
type write struct {
	dry        bool
	validation *validation
}

func parseWrite(r *http.Request) (write, error) {
	dry, err := dryRun(r.URL.Query()["dryRun"])
	if err != nil {
		return write{}, err
	}
	v, err := fieldValidation(r)
	return write{dry, v}, err
}

func (h *resource) read(r *http.Request, v *validation) (runtime.Object, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return decode(body, r.Header.Get("Content-Type"), h.GroupVersionKind(), v)
}

func (h *resource) post(w http.ResponseWriter, r *http.Request) error {
	o, err := parseWrite(r)
	if err != nil {
		return err
	}
	obj, err := h.read(r, o.validation)
	if err != nil {
		return err
	}
	obj, err = h.server.create(r.Context(), h.shelf, chi.URLParam(r, "namespace"), obj, o.dry)
	if err != nil {
		return err
	}
	return h.answer(w, r, http.StatusCreated, obj, o.validation)
}

func (h *resource) answer(w http.ResponseWriter, r *http.Request, code int, obj runtime.Object, v *validation) error {
	v.send(w)
	return serveItem(w, r, h.Resource, code, &item{obj: obj})
}

func (h *resource) put(w http.ResponseWriter, r *http.Request) error {
	return h.replace(w, r, "")
}

func (h *resource) replace(w http.ResponseWriter, r *http.Request, sub string) error {
	o, err := parseWrite(r)
	if err != nil {
		return err
	}
	obj, err := h.read(r, o.validation)
	if err != nil {
		return err
	}
	m := obj.(metav1.ObjectMetaAccessor).GetObjectMeta()
	if err := sameNamespace(m, chi.URLParam(r, "namespace")); err != nil {
		return err
	}
	if name := chi.URLParam(r, "name"); m.GetName() != name {
		return apierrors.NewBadRequest("the name of the object (" + m.GetName() + ") does not match the name on the URL (" + name + ")")
	}
	return h.change(w, r, sub, o, func(runtime.Object) (runtime.Object, error) { return obj.DeepCopyObject(), nil })
}

func (h *resource) patch(w http.ResponseWriter, r *http.Request) error {
	return h.patchSub(w, r, "")
}

func (h *resource) patchSub(w http.ResponseWriter, r *http.Request, sub string) error {
	o, err := parseWrite(r)
	if err != nil {
		return err
	}
	p, err := readPatch(r)
	if err != nil {
		return err
	}
	return h.change(w, r, sub, o, func(old runtime.Object) (runtime.Object, error) {
		obj, err := p.apply(old, o.validation)
		if err == nil {
			unpin(obj, old)
		}
		return obj, err
	})
}

// unpin forgets a resourceVersion that the patch did not set itself: such a patch applies to whatever is stored.
func unpin(obj, old runtime.Object) {
	m, before := obj.(metav1.ObjectMetaAccessor).GetObjectMeta(), old.(metav1.ObjectMetaAccessor).GetObjectMeta()
	if m.GetResourceVersion() == before.GetResourceVersion() {
		m.SetResourceVersion("")
	}
}

func (h *resource) change(w http.ResponseWriter, r *http.Request, sub string, o write, f change) error {
	obj, err := h.server.modify(r.Context(), h.shelf, h.key(r), sub, o.dry, f)
	if err != nil {
		return err
	}
	return h.answer(w, r, http.StatusOK, obj, o.validation)
}

// deleteOptions reads them from the body, or from the query where there is no body.
func deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		obj, err := decodeOptions(body, r.Header.Get("Content-Type"))
		if err != nil {
			return nil, err
		}
		o = obj
	}
	query := r.URL.Query()
	if len(o.DryRun) == 0 {
		o.DryRun = query["dryRun"]
	}
	if policy := query.Get("propagationPolicy"); policy != "" && o.PropagationPolicy == nil {
		o.PropagationPolicy = ptr(metav1.DeletionPropagation(policy))
	}
	if text := query.Get("gracePeriodSeconds"); text != "" && o.GracePeriodSeconds == nil {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, apierrors.NewBadRequest("gracePeriodSeconds: must be a number")
		}
		o.GracePeriodSeconds = &n
	}
	return o, checkPolicy(o)
}

func checkPolicy(o *metav1.DeleteOptions) error {
	if o.PropagationPolicy == nil {
		return nil
	}
	if o.OrphanDependents != nil { //nolint:staticcheck // Deprecated, and still sent.
		return apierrors.NewBadRequest("orphanDependents and propagationPolicy cannot be both set")
	}
	switch *o.PropagationPolicy {
	case metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan:
		return nil
	}
	return apierrors.NewBadRequest("propagationPolicy: Unsupported value: " + strconv.Quote(string(*o.PropagationPolicy)) + `: supported values: "Background", "Foreground", "Orphan"`)
}

// decodeOptions reads DeleteOptions, which clients send in the version of the group they delete from, or in v1.
func decodeOptions(body []byte, contentType string) (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	if contentType == typeProto {
		unknown := runtime.Unknown{}
		if len(body) < len(protoMagic) || unknown.Unmarshal(body[len(protoMagic):]) != nil || o.Unmarshal(unknown.Raw) != nil {
			return nil, apierrors.NewBadRequest("the body is not DeleteOptions in protobuf")
		}
		return o, nil
	}
	if err := json.Unmarshal(body, o); err != nil {
		return nil, apierrors.NewBadRequest("the body is not DeleteOptions: " + err.Error())
	}
	return o, nil
}

func (h *resource) deleteOne(w http.ResponseWriter, r *http.Request) error {
	o, err := deleteOptions(r)
	if err != nil {
		return err
	}
	obj, gone, err := h.server.delete(r.Context(), h.shelf, h.key(r), o)
	if err != nil {
		return err
	}
	if gone {
		return respond(w, r, http.StatusOK, deleted(h.Resource, obj.(metav1.ObjectMetaAccessor).GetObjectMeta()))
	}
	return serveItem(w, r, h.Resource, http.StatusOK, &item{obj: obj})
}

// deleteAll deletes what a list with the same selectors would show, and answers with that list.
func (h *resource) deleteAll(w http.ResponseWriter, r *http.Request) error {
	sel, err := parseSelection(h.Resource, chi.URLParam(r, "namespace"), r.URL.Query())
	if err != nil {
		return err
	}
	o, err := deleteOptions(r)
	if err != nil {
		return err
	}
	tree, rev := h.shelf.snapshot(h.server.cache)
	p := h.server.slice(h.shelf, tree, rev, sel, "", 0)
	for _, it := range p.items {
		if _, _, err := h.server.delete(r.Context(), h.shelf, it.key, o.DeepCopy()); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	body, err := listJSON(h.Resource, p)
	if err != nil {
		return err
	}
	return respondBytes(w, typeJSON, http.StatusOK, body)
}

func logPanic(r *http.Request, v any) {
	slog.Error("panic in a request", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
}

func uidOf(obj runtime.Object) types.UID {
	return obj.(metav1.ObjectMetaAccessor).GetObjectMeta().GetUID()
}
