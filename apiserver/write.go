package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"

	"skiff/api"
	"skiff/store"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// objectKey is where an object lies on its shelf.
func objectKey(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// dryRun reads the parameter of that name: a dry run goes through everything but the store.
func dryRun(values []string) (bool, error) {
	for _, v := range values {
		if v != metav1.DryRunAll {
			return false, apierrors.NewBadRequest(fmt.Sprintf("dryRun: Unsupported value: %q: supported values: %q", v, metav1.DryRunAll))
		}
	}
	return len(values) > 0, nil
}

// create stores a new object.
func (s *Server) create(ctx context.Context, sh *shelf, namespace string, obj runtime.Object, dry bool) (runtime.Object, error) {
	r := sh.resource
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	if m.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	if err := sameNamespace(m, namespace); err != nil {
		return nil, err
	}
	if r.Namespaced {
		if err := s.checkNamespace(namespace); err != nil {
			return nil, err
		}
	}
	generated := nameNew(m)
	beginLife(r, obj, m)
	if r.Default != nil {
		r.Default(obj)
	}
	if r.PrepareCreate != nil {
		r.PrepareCreate(obj)
	}
	if err := s.admit(obj); err != nil {
		return nil, err
	}
	unlock, err := s.allocate(sh, obj, nil)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if errs := validate(r, obj); len(errs) > 0 {
		return nil, apierrors.NewInvalid(r.GroupVersionKind().GroupKind(), m.GetName(), errs)
	}
	key := objectKey(namespace, m.GetName())
	if sh.get(key) != nil {
		return nil, exists(r, m.GetName(), generated)
	}
	if dry {
		return obj, nil
	}
	name := m.GetName()
	stored, err := s.cache.put(ctx, sh, key, obj, 0)
	if errors.Is(err, store.ErrExists) {
		return nil, exists(r, name, generated)
	}
	return stored, err
}

func exists(r *api.Resource, name string, generated bool) error {
	if generated {
		return apierrors.NewGenerateNameConflict(r.GroupResource(), name, 1)
	}
	return apierrors.NewAlreadyExists(r.GroupResource(), name)
}

func sameNamespace(m metav1.Object, namespace string) error {
	switch have := m.GetNamespace(); {
	case have == "" || have == namespace:
		m.SetNamespace(namespace)
		return nil
	case namespace == "":
		m.SetNamespace("")
		return nil
	}
	return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
}

// checkNamespace holds that nothing is created in a namespace that is not there or on its way out.
func (s *Server) checkNamespace(name string) error {
	namespaces := s.shelf("namespaces")
	it := namespaces.get(name)
	if it == nil {
		return apierrors.NewNotFound(namespaces.resource.GroupResource(), name)
	}
	if it.meta().GetDeletionTimestamp() != nil {
		err := apierrors.NewForbidden(namespaces.resource.GroupResource(), name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", name))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{
			Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", name), Field: "metadata.namespace",
		}}
		return err
	}
	return nil
}

// Kubernetes' own bounds of a generated name: https://kubernetes.io/docs/reference/using-api/api-concepts/#generated-values
const (
	generatedSuffix = 5
	generatedBase   = 63 - generatedSuffix
)

// nameNew makes a name from generateName, where there is no name.
func nameNew(m metav1.Object) (generated bool) {
	base := m.GetGenerateName()
	if m.GetName() != "" || base == "" {
		return false
	}
	m.SetName(base[:min(len(base), generatedBase)] + rand.String(generatedSuffix))
	return true
}

// beginLife sets what only the server may say of a new object.
func beginLife(r *api.Resource, obj runtime.Object, m metav1.Object) {
	m.SetUID(uuid.NewUUID())
	m.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	m.SetSelfLink("")
	m.SetGeneration(0)
	m.SetManagedFields(nil)
	if r.Generation {
		m.SetGeneration(1)
	}
	if _, ok := r.Sub("status"); ok && !r.StatusOnCreate {
		member(obj, "Status").SetZero()
	}
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
}

// member is the Spec or the Status of an object, or an invalid Value where its kind has none.
func member(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

func validate(r *api.Resource, obj runtime.Object) field.ErrorList {
	m, _ := meta.Accessor(obj)
	name := r.ValidateName
	if name == nil {
		name = metavalidation.NameIsDNSSubdomain
	}
	errs := metavalidation.ValidateObjectMetaAccessor(m, r.Namespaced, name, field.NewPath("metadata"))
	if r.Validate != nil {
		errs = append(errs, r.Validate(obj)...)
	}
	return errs
}

// change makes the new version of an object out of the stored one, which it must not alter. It may be called more than
// once, each time with what is stored then.
type change func(old runtime.Object) (runtime.Object, error)

// Writers that race for one object try again so often before they give up.
const maxTries = 10

// modify brings a change to a stored object: to the object itself, or, named by sub, to a part of it. A change that
// names the resourceVersion it was made for fails if that is no longer the stored one.
func (s *Server) modify(ctx context.Context, sh *shelf, key, sub string, dry bool, f change) (runtime.Object, error) {
	r := sh.resource
	for try := 1; ; try++ {
		it := sh.get(key)
		if it == nil {
			return nil, notFound(r, key)
		}
		obj, err := f(it.obj)
		if err != nil {
			return nil, err
		}
		stored, again, err := s.replace(ctx, sh, it, obj, sub, dry)
		if !again || try == maxTries {
			return stored, err
		}
	}
}

func (s *Server) replace(ctx context.Context, sh *shelf, it *item, obj runtime.Object, sub string, dry bool) (_ runtime.Object, again bool, err error) {
	r := sh.resource
	obj, err = follow(r, obj, it, sub)
	if err != nil {
		return nil, false, err
	}
	unlock, err := s.allocate(sh, obj, it.obj)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	if errs := validateUpdate(r, obj, it.obj, sub); len(errs) > 0 {
		return nil, false, apierrors.NewInvalid(r.GroupVersionKind().GroupKind(), it.meta().GetName(), errs)
	}
	if equality.Semantic.DeepEqual(obj, it.obj) {
		return it.obj, false, nil // Nothing changes, so there is nothing to write, and no event.
	}
	if dry {
		return obj, false, nil
	}
	if finished(obj) {
		err = s.cache.remove(ctx, sh, it.key, it.rev)
	} else {
		obj, err = s.cache.put(ctx, sh, it.key, obj, it.rev)
	}
	switch {
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
		return nil, true, conflict(r, it.meta().GetName())
	case err != nil:
		return nil, false, err
	}
	return obj, false, nil
}

func notFound(r *api.Resource, key string) error {
	name := key
	if r.Namespaced {
		name = key[len(namespaceOf(key))+1:]
	}
	return apierrors.NewNotFound(r.GroupResource(), name)
}

func namespaceOf(key string) string {
	for i := range len(key) {
		if key[i] == '/' {
			return key[:i]
		}
	}
	return ""
}

func conflict(r *api.Resource, name string) error {
	return apierrors.NewConflict(r.GroupResource(), name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
}

// follow makes obj a proper successor of the stored object: what the server alone may say is kept, and so is the part
// that this request is not about.
func follow(r *api.Resource, obj runtime.Object, it *item, sub string) (runtime.Object, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	old := it.meta()
	if rv := m.GetResourceVersion(); rv != "" && rv != strconv.FormatUint(it.rev, 10) {
		return nil, conflict(r, old.GetName())
	}
	if uid := m.GetUID(); uid != "" && uid != old.GetUID() {
		return nil, apierrors.NewConflict(r.GroupResource(), old.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: %s", uid, old.GetUID()))
	}
	if sub == "status" {
		obj = withStatus(it.obj, obj)
		if m, err = meta.Accessor(obj); err != nil {
			return nil, err
		}
	}
	m.SetResourceVersion(old.GetResourceVersion())
	m.SetUID(old.GetUID())
	m.SetCreationTimestamp(old.GetCreationTimestamp())
	m.SetSelfLink("")
	m.SetManagedFields(nil)
	if sub != subDelete {
		m.SetDeletionTimestamp(old.GetDeletionTimestamp())
		m.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	if sub == "" {
		if _, ok := r.Sub("status"); ok {
			member(obj, "Status").Set(member(it.obj.DeepCopyObject(), "Status"))
		}
		if r.Default != nil {
			r.Default(obj)
		}
		if r.PrepareUpdate != nil {
			r.PrepareUpdate(obj, it.obj)
		}
	}
	m.SetGeneration(generation(r, obj, it.obj, old.GetGeneration(), sub))
	return obj, nil
}

// subDelete marks the change that begins an object's deletion.
const subDelete = "delete"

// generation counts the changes of what is wanted; the beginning of a deletion is one too.
func generation(r *api.Resource, obj, old runtime.Object, n int64, sub string) int64 {
	if !r.Generation || sub != "" && sub != subDelete { // A binding changes spec, but nobody's wish.
		return n
	}
	if sub == subDelete || !equality.Semantic.DeepEqual(member(obj, "Spec").Interface(), member(old, "Spec").Interface()) {
		return n + 1
	}
	return n
}

// withStatus is the stored object with the status, labels and annotations of another.
func withStatus(old, obj runtime.Object) runtime.Object {
	next := old.DeepCopyObject()
	member(next, "Status").Set(member(obj, "Status"))
	from, _ := meta.Accessor(obj)
	to, _ := meta.Accessor(next)
	to.SetLabels(from.GetLabels())
	to.SetAnnotations(from.GetAnnotations())
	return next
}

func validateUpdate(r *api.Resource, obj, old runtime.Object, sub string) field.ErrorList {
	if sub == subDelete {
		return nil // The server's own doing; a client may not change a deletion's time.
	}
	m, _ := meta.Accessor(obj)
	before, _ := meta.Accessor(old)
	errs := metavalidation.ValidateObjectMetaAccessorUpdate(m, before, field.NewPath("metadata"))
	if sub != "" {
		return errs
	}
	if r.Validate != nil {
		errs = append(errs, r.Validate(obj)...)
	}
	if r.ValidateUpdate != nil {
		errs = append(errs, r.ValidateUpdate(obj, old)...)
	}
	return errs
}

// finished tells whether an object that is being deleted has nothing left that holds it.
func finished(obj runtime.Object) bool {
	m, _ := meta.Accessor(obj)
	if m.GetDeletionTimestamp() == nil || len(m.GetFinalizers()) > 0 {
		return false
	}
	if grace := m.GetDeletionGracePeriodSeconds(); grace != nil && *grace > 0 {
		return false
	}
	ns, ok := obj.(*corev1.Namespace)
	return !ok || len(ns.Spec.Finalizers) == 0
}

// deletion is what becomes of an object that is to be deleted. https://kubernetes.io/docs/concepts/architecture/garbage-collection/
type deletion struct {
	resource *api.Resource
	options  *metav1.DeleteOptions
	now      metav1.Time
}

// delete removes an object, or begins its deletion where a grace period or a finalizer holds it. It returns the object's
// last state and whether it is gone.
func (s *Server) delete(ctx context.Context, sh *shelf, key string, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	dry, err := dryRun(o.DryRun)
	if err != nil {
		return nil, false, err
	}
	d := deletion{sh.resource, o, metav1.Now().Rfc3339Copy()}
	for try := 1; ; try++ {
		it := sh.get(key)
		if it == nil {
			return nil, false, notFound(sh.resource, key)
		}
		if err := d.check(it); err != nil {
			return nil, false, err
		}
		obj := d.begin(it.obj)
		if finished(obj) {
			if dry {
				return it.obj, true, nil
			}
			err = s.cache.remove(ctx, sh, key, it.rev)
			if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
				return it.obj, true, err
			}
			err = conflict(sh.resource, it.meta().GetName())
		} else {
			var again bool
			obj, again, err = s.replace(ctx, sh, it, obj, subDelete, dry)
			if !again {
				return obj, false, err
			}
		}
		if try == maxTries {
			return nil, false, err
		}
	}
}

// protected namespaces are what the cluster itself lives in.
var protected = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

func (d deletion) check(it *item) error {
	m := it.meta()
	r := d.resource
	if p := d.options.Preconditions; p != nil {
		if p.UID != nil && *p.UID != m.GetUID() {
			return apierrors.NewConflict(r.GroupResource(), m.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: %s", *p.UID, m.GetUID()))
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
			return apierrors.NewConflict(r.GroupResource(), m.GetName(), fmt.Errorf("Precondition failed: ResourceVersion in precondition: %s, ResourceVersion in object meta: %s", *p.ResourceVersion, m.GetResourceVersion()))
		}
	}
	if r.Kind == "Namespace" && slices.Contains(protected, m.GetName()) {
		return apierrors.NewForbidden(r.GroupResource(), m.GetName(), errors.New("this namespace may not be deleted"))
	}
	return nil
}

// begin is the object as it is once its deletion has begun.
func (d deletion) begin(old runtime.Object) runtime.Object {
	obj := old.DeepCopyObject()
	m, _ := meta.Accessor(obj)
	grace := d.grace(obj)
	m.SetFinalizers(d.finalizers(m.GetFinalizers()))
	since := d.now
	if at := m.GetDeletionTimestamp(); at != nil { // A second request may only make the wait shorter.
		before := ptrOr(m.GetDeletionGracePeriodSeconds(), 0)
		if grace >= before {
			return obj
		}
		since = metav1.NewTime(at.Add(-seconds(before)))
	}
	at := metav1.NewTime(since.Add(seconds(grace)))
	m.SetDeletionTimestamp(&at)
	m.SetDeletionGracePeriodSeconds(&grace)
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
	}
	return obj
}

// grace is how long the object's end takes, in seconds. Only a pod on a node has something to bring to an end.
// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination
func (d deletion) grace(obj runtime.Object) int64 {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return 0
	}
	return max(0, ptrOr(d.options.GracePeriodSeconds, ptrOr(pod.Spec.TerminationGracePeriodSeconds, 30)))
}

// finalizers are those that the object has, with the one that the propagation policy asks for.
func (d deletion) finalizers(have []string) []string {
	policy := ptrOr(d.options.PropagationPolicy, metav1.DeletePropagationBackground)
	if ptrOr(d.options.OrphanDependents, false) { //nolint:staticcheck // Deprecated, and still sent.
		policy = metav1.DeletePropagationOrphan
	}
	out := slices.DeleteFunc(slices.Clone(have), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	switch policy {
	case metav1.DeletePropagationOrphan:
		out = append(out, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// deleted is the answer where an object is gone at once.
func deleted(r *api.Resource, m metav1.Object) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Code:     http.StatusOK,
		Details:  &metav1.StatusDetails{Name: m.GetName(), Group: r.Group, Kind: r.Name, UID: types.UID(m.GetUID())},
	}
}
