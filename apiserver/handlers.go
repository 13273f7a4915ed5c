package apiserver

import (
	"fmt"
	"mime"
	"net/http"

	"skiff/api"

	"github.com/go-chi/chi/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// resource handles the requests for one row of the table.
type resource struct {
	*api.Resource
	server *Server
	shelf  *shelf
	owners ownership
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
	if err == nil && h.shelf != nil { // Of what is not stored there are few.
		err = sel.bound(h.shelf.count())
	}
	return sel, o, err
}

func (h *resource) getOne(w http.ResponseWriter, r *http.Request) error {
	rev, err := parseRevision(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return unclassified(err)
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
	writer     string // Whose the fields are that are written.
	force      bool   // Whether an apply takes fields from other writers.
}

// parseWrite reads the parameters. The answer shows an object of the row; a client that accepts it in no form is refused while
// nothing is written yet.
func parseWrite(r *http.Request, row *api.Resource) (write, error) {
	if _, err := negotiateRow(r, row, "Table", "PartialObjectMetadata"); err != nil {
		return write{}, err
	}
	query := r.URL.Query()
	o := metav1.PatchOptions{FieldManager: query.Get("fieldManager"), DryRun: query["dryRun"], FieldValidation: query.Get("fieldValidation")}
	if query.Has("force") {
		o.Force = ptr(isTrue(r, "force"))
	}
	kind, errs := checkWriteOptions(r, &o)
	if len(errs) > 0 {
		return write{}, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
	}
	return write{dry: isDry(o.DryRun), validation: newValidation(o.FieldValidation), writer: writer(r), force: ptrOr(o.Force, false)}, nil
}

// checkWriteOptions judges the parameters by the method, for which Kubernetes calls them differently. An apply must say whose it
// is, and it alone may use force.
func checkWriteOptions(r *http.Request, o *metav1.PatchOptions) (kind string, errs field.ErrorList) {
	update := metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	switch r.Method {
	case http.MethodPost:
		return "CreateOptions", metav1validation.ValidateUpdateOptions(&update) // Nothing in them differs.
	case http.MethodPatch:
		media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		return "PatchOptions", metav1validation.ValidatePatchOptions(o, types.PatchType(media))
	}
	return "UpdateOptions", metav1validation.ValidateUpdateOptions(&update)
}

// isDry says whether a request that passed its checks is a dry run: it goes through everything but the store.
func isDry(values []string) bool { return len(values) > 0 }

// read gives the object in the request's body as it is to be stored.
func (h *resource) read(r *http.Request, v *validation) (runtime.Object, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return h.decode(r, body, v)
}

func (h *resource) decode(r *http.Request, body []byte, v *validation) (runtime.Object, error) {
	v.warnings = nil // This may be the second try.
	read := readerOf(h.Resource)
	if h.Kind == "Pod" {
		read = h.server.templates.reader(read)
	}
	obj, err := read(body, r.Header.Get("Content-Type"), v)
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
	o, err := parseWrite(r, h.Resource)
	if err != nil {
		return err
	}
	obj, err := h.read(r, o.validation)
	if err != nil {
		return err
	}
	if err := h.recordNew(r, obj, o); err != nil {
		return err
	}
	return h.create(w, r, obj, o)
}

// recordNew records in a new object whose its fields are, with their defaults.
func (h *resource) recordNew(r *http.Request, obj runtime.Object, o write) error {
	if isComponent(r) {
		metaOf(obj).SetManagedFields(nil)
		return nil
	}
	if h.Default != nil {
		h.Default(obj)
	}
	return h.owners.created(h.Resource, obj, o.writer)
}

// create stores a new object that says whose its fields are. What the server adds now, nobody owns.
func (h *resource) create(w http.ResponseWriter, r *http.Request, obj runtime.Object, o write) error {
	if err := h.createsOwn(r, obj); err != nil {
		return err
	}
	obj, err := h.server.create(r.Context(), h.shelf, chi.URLParam(r, "namespace"), obj, o.dry)
	if err != nil {
		return o.validation.beside(w, err)
	}
	if h.Idle {
		o.validation.warnings = append(o.validation.warnings, fmt.Sprintf("skiff stores this %s, but nothing acts on it yet", h.Kind))
	}
	if !isComponent(r) {
		o.validation.warnings = append(o.validation.warnings, api.Warnings(obj, nil)...)
		o.validation.unserved(obj)
	}
	return h.answer(w, r, http.StatusCreated, obj, o)
}

// answer says what was written. What is still the newest version reads the same to its writer, to those who watch and to those who
// get it next: it is encoded once for all of them.
func (h *resource) answer(w http.ResponseWriter, r *http.Request, code int, obj runtime.Object, o write) error {
	o.validation.send(w)
	m := metaOf(obj)
	it := h.shelf.get(objectKey(m.GetNamespace(), m.GetName()))
	if o.dry || it == nil || it.meta().GetResourceVersion() != m.GetResourceVersion() {
		it = &item{obj: obj}
	}
	return serveItem(w, r, h.Resource, code, it)
}

func (h *resource) put(w http.ResponseWriter, r *http.Request) error {
	return h.replace(w, r, "")
}

func (h *resource) replace(w http.ResponseWriter, r *http.Request, sub string) error {
	o, err := parseWrite(r, h.Resource)
	if err != nil {
		return err
	}
	given, err := h.puts(r, o)
	if err != nil {
		return o.validation.beside(w, err)
	}
	changed := func() error {
		return h.change(w, r, sub, o, h.recorded(sub, o, func(runtime.Object) (runtime.Object, error) {
			obj, err := given()
			if err == nil && h.Conditional && metaOf(obj).GetResourceVersion() == "" {
				err = unconditional(h.Resource, metaOf(obj).GetName())
			}
			return obj, err
		}))
	}
	if sub != "" || !h.CreatedByPut {
		return changed()
	}
	created := func() error {
		obj, err := given()
		if err != nil {
			return err
		}
		return h.putNew(w, r, obj, o)
	}
	return h.createOrChange(r, created, changed)
}

// puts reads the object of a PUT. A try to write it changes it, so that each further one gets what the body says again.
func (h *resource) puts(r *http.Request, o write) (func() (runtime.Object, error), error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	read := func() (runtime.Object, error) {
		obj, err := h.decode(r, body, o.validation)
		if err != nil {
			return nil, err
		}
		return obj, sameName(r, obj)
	}
	first, err := read()
	if err != nil {
		return nil, err
	}
	return func() (runtime.Object, error) {
		if obj := first; obj != nil {
			first = nil
			return obj, nil
		}
		return read()
	}, nil
}

// putNew creates an object by a PUT, which may name a version of what was there once.
func (h *resource) putNew(w http.ResponseWriter, r *http.Request, obj runtime.Object, o write) error {
	m := metaOf(obj)
	if err := h.authorizeCreate(r); err != nil {
		return err
	}
	if uid := m.GetUID(); uid != "" {
		return apierrors.NewConflict(h.GroupResource(), m.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: ", uid))
	}
	m.SetResourceVersion("")
	if err := h.recordNew(r, obj, o); err != nil {
		return err
	}
	return h.create(w, r, obj, o)
}

// createOrChange does the one where there is no object yet, and the other where there is. Others may make one, or take it away,
// at the same time.
func (h *resource) createOrChange(r *http.Request, create, change func() error) error {
	for try := 1; ; try++ {
		write, raced := change, apierrors.IsNotFound
		if h.shelf.get(h.key(r)) == nil {
			write, raced = create, apierrors.IsAlreadyExists
		}
		err := write()
		if err == nil || !raced(err) || try == maxTries {
			return err
		}
		if err := h.server.cache.catchUp(r.Context(), h.shelf, h.key(r)); err != nil {
			return err
		}
	}
}

// authorizeCreate lets who changes objects make one only if he may.
func (h *resource) authorizeCreate(r *http.Request) error {
	return h.server.authorize(r, attributes{
		verb: "create", resource: h.Resource, namespace: chi.URLParam(r, "namespace"), name: chi.URLParam(r, "name"),
	})
}

// unconditional refuses to replace whatever there is, where the kind does not allow that; it calls the kind by its resource, and
// the revision by a number, as Kubernetes does.
func unconditional(r *api.Resource, name string) error {
	kind := schema.GroupKind{Group: r.Group, Kind: r.Name}
	return apierrors.NewInvalid(kind, name, field.ErrorList{
		field.Invalid(field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update"),
	})
}

// sameName holds that a request's object is the one that its path names.
func sameName(r *http.Request, obj runtime.Object) error {
	m := metaOf(obj)
	switch name := chi.URLParam(r, "name"); m.GetName() {
	case name:
	case "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", name))
	default:
		return apierrors.NewBadRequest("the name of the object (" + m.GetName() + ") does not match the name on the URL (" + name + ")")
	}
	return sameNamespace(m, chi.URLParam(r, "namespace"))
}

func (h *resource) patch(w http.ResponseWriter, r *http.Request) error {
	return h.patchSub(w, r, "")
}

func (h *resource) patchSub(w http.ResponseWriter, r *http.Request, sub string) error {
	o, err := parseWrite(r, h.Resource)
	if err != nil {
		return err
	}
	p, err := h.readPatch(r)
	if err != nil {
		return err
	}
	if p.isApply() {
		return h.applyPatch(w, r, sub, o, p)
	}
	return h.change(w, r, sub, o, h.patched(r, sub, o, p))
}

// patched is the change that a patch makes.
func (h *resource) patched(r *http.Request, sub string, o write, p patch) change {
	form := h.Resource
	if sub == "scale" {
		form = scaleForm
	}
	changed := h.recorded(sub, o, func(old runtime.Object) (runtime.Object, error) {
		obj, err := p.apply(h.itemOf(h.key(r), old).shown(form), o.validation)
		if err != nil {
			return nil, err
		}
		return form.Store(obj)
	})
	if p.isApply() {
		changed = func(old runtime.Object) (runtime.Object, error) { return h.applied(old, sub, o, p) }
	}
	return func(old runtime.Object) (runtime.Object, error) {
		obj, err := changed(old)
		if err != nil {
			return nil, err
		}
		unpin(obj, old)
		if err := sameUID(h.Resource, obj, old); err != nil {
			return nil, err
		}
		return obj, sameName(r, obj)
	}
}

// itemOf is the item of an object that is stored, which may know already how it reads.
func (h *resource) itemOf(key string, obj runtime.Object) *item {
	if it := h.shelf.get(key); it != nil && it.obj == obj {
		return it
	}
	return &item{key: key, obj: obj}
}

// recorded is a change with the record of who made it. Defaults are a part of what was written.
func (h *resource) recorded(sub string, o write, f change) change {
	return func(old runtime.Object) (runtime.Object, error) {
		obj, err := f(old)
		if err != nil {
			return nil, err
		}
		if (sub == "" || sub == "ephemeralcontainers" || ofStatus(sub)) && h.Default != nil {
			h.Default(obj)
		}
		return obj, h.owners.changed(old, obj, sub, o.writer)
	}
}

// unpin forgets a resourceVersion that the patch did not set itself: such a patch applies to whatever is stored.
func unpin(obj, old runtime.Object) {
	if m := metaOf(obj); m.GetResourceVersion() == metaOf(old).GetResourceVersion() {
		m.SetResourceVersion("")
	}
}

// sameUID holds that a patch leaves the UID. One that names another resourceVersion than the stored one fails for that.
func sameUID(r *api.Resource, obj, old runtime.Object) error {
	m, before := metaOf(obj), metaOf(old)
	if uid := m.GetUID(); m.GetResourceVersion() == "" && uid != "" && uid != before.GetUID() {
		errs := metavalidation.ValidateImmutableField(uid, before.GetUID(), field.NewPath("metadata", "uid"))
		return apierrors.NewInvalid(r.GroupVersionKind().GroupKind(), before.GetName(), errs)
	}
	return nil
}

func (h *resource) change(w http.ResponseWriter, r *http.Request, sub string, o write, f change) error {
	var before runtime.Object
	noting := func(old runtime.Object) (runtime.Object, error) {
		before = old
		return f(old)
	}
	obj, err := h.server.modify(r.Context(), h.shelf, h.key(r), sub, o.dry, h.restricted(r, sub, noting))
	if err != nil {
		return o.validation.beside(w, err)
	}
	if sub == "" && !isComponent(r) {
		o.validation.warnings = append(o.validation.warnings, api.Warnings(obj, before)...)
	}
	if (sub == "" || sub == "ephemeralcontainers") && !isComponent(r) {
		o.validation.unserved(obj)
	}
	return h.answer(w, r, http.StatusOK, obj, o)
}
