package apiserver

import (
	"fmt"
	"net/http"

	"skiff/api"

	"github.com/go-chi/chi/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
	sel, o, err := h.selection(r)
	if err != nil {
		return err
	}
	if o.Watch {
		return h.server.serveWatch(w, r, h.shelf, sel, o)
	}
	p, err := h.server.list(r.Context(), h.shelf, sel, o)
	if err != nil {
		return err
	}
	return serveList(w, r, h.Resource, p)
}

func (h *resource) selection(r *http.Request) (selection, *internalversion.ListOptions, error) {
	o, err := listOptions(r)
	if err != nil {
		return selection{}, nil, err
	}
	sel, err := selectionOf(h.Resource, chi.URLParam(r, "namespace"), o)
	return sel, o, err
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

// read gives the object in the request's body as it is to be stored.
func (h *resource) read(r *http.Request, v *validation) (runtime.Object, error) {
	obj, err := readKind(r, h.GroupVersionKind(), v)
	if err != nil {
		return nil, err
	}
	return h.Store(obj)
}

// readKind reads an object of the kind out of a request's body.
func readKind(r *http.Request, want schema.GroupVersionKind, v *validation) (runtime.Object, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return decode(body, r.Header.Get("Content-Type"), want, v)
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
	if err := h.createsOwn(r, obj); err != nil {
		return err
	}
	obj, err = h.server.create(r.Context(), h.shelf, chi.URLParam(r, "namespace"), obj, o.dry)
	if err != nil {
		return err
	}
	if h.Idle {
		o.validation.warnings = append(o.validation.warnings, fmt.Sprintf("skiff stores this %s, but nothing acts on it yet", h.Kind))
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
	if err := sameName(r, obj); err != nil {
		return err
	}
	return h.change(w, r, sub, o, func(runtime.Object) (runtime.Object, error) { return obj.DeepCopyObject(), nil })
}

// sameName holds that a request's object is the one that its path names.
func sameName(r *http.Request, obj runtime.Object) error {
	m := metaOf(obj)
	if name := chi.URLParam(r, "name"); m.GetName() != name {
		return apierrors.NewBadRequest("the name of the object (" + m.GetName() + ") does not match the name on the URL (" + name + ")")
	}
	return sameNamespace(m, chi.URLParam(r, "namespace"))
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
		obj, err := p.apply(h.Show(old), o.validation)
		if err != nil {
			return nil, err
		}
		if obj, err = h.Store(obj); err != nil {
			return nil, err
		}
		unpin(obj, old)
		return obj, sameName(r, obj)
	})
}

// unpin forgets a resourceVersion that the patch did not set itself: such a patch applies to whatever is stored.
func unpin(obj, old runtime.Object) {
	if m := metaOf(obj); m.GetResourceVersion() == metaOf(old).GetResourceVersion() {
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
