package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"skiff/api"
	"skiff/store"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
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

// create stores a new object. Where its name is to be generated, another is tried if somebody has that one already.
func (s *Server) create(ctx context.Context, sh *shelf, namespace string, obj runtime.Object, dry bool) (runtime.Object, error) {
	m := metaOf(obj)
	if m.GetName() != "" || m.GetGenerateName() == "" {
		return s.createNamed(ctx, sh, namespace, obj, dry)
	}
	for try := 1; ; try++ {
		next := obj.DeepCopyObject() // The name is all over one of them once it is made.
		metaOf(obj).SetName(generateName(m.GetGenerateName()))
		created, err := s.createNamed(ctx, sh, namespace, obj, dry)
		if !apierrors.IsAlreadyExists(err) || try == generatedTries {
			return created, err
		}
		obj = next
	}
}

func (s *Server) createNamed(ctx context.Context, sh *shelf, namespace string, obj runtime.Object, dry bool) (runtime.Object, error) {
	r := sh.resource
	m := metaOf(obj)
	if m.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	if err := sameNamespace(m, namespace); err != nil {
		return nil, err
	}
	if r.Custom {
		done, err := s.checkDefinition(sh)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	if r.Namespaced {
		if err := s.checkNamespace(namespace, r, m.GetName()); err != nil {
			return nil, err
		}
	}
	beginLife(r, obj, m)
	if r.Default != nil {
		r.Default(obj)
	}
	dropGated(r, obj)
	if r.PrepareCreate != nil {
		r.PrepareCreate(obj)
	}
	if err := s.admit(ctx, obj); err != nil {
		return nil, err
	}
	given, err := s.allocate(sh, obj, nil, "")
	if err != nil {
		return nil, err
	}
	defer given.done()
	stored, err := marshalStored(obj)
	if err != nil {
		return nil, err
	}
	if errs := s.validate(r, obj, stored); len(errs) > 0 {
		return nil, apierrors.NewInvalid(r.GroupVersionKind().GroupKind(), m.GetName(), errs)
	}
	key := objectKey(namespace, m.GetName())
	if it := sh.get(key); it != nil {
		return nil, exists(r, m, it)
	}
	if dry {
		return obj, nil
	}
	if err := given.claim(ctx); err != nil {
		return nil, err
	}
	switch err = given.inTime(); {
	case err != nil:
	case given != nil: // The claim may have found something else for it.
		err = s.cache.put(ctx, sh, key, obj, 0)
	default:
		err = s.cache.putStored(ctx, sh, key, obj, stored, 0)
	}
	given.written(ctx, err)
	if err == nil && r.Custom {
		err = s.cache.takeBack(ctx, sh, key, obj)
	}
	if errors.Is(err, store.ErrExists) {
		return nil, exists(r, m, sh.get(key))
	}
	return obj, err
}

// exists refuses to create an object because another has its name; nil if that is not known.
func exists(r *api.Resource, m metav1.Object, other *item) error {
	err := apierrors.NewAlreadyExists(r.GroupResource(), m.GetName())
	if m.GetGenerateName() != "" {
		err = apierrors.NewGenerateNameConflict(r.GroupResource(), m.GetName(), 1)
	}
	if other != nil && other.meta().GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
	}
	return err
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
func (s *Server) checkNamespace(namespace string, r *api.Resource, name string) error {
	it := s.shelf("namespaces").get(namespace)
	if it == nil {
		return apierrors.NewNotFound(corev1.Resource("namespaces"), namespace)
	}
	if it.meta().GetDeletionTimestamp() == nil {
		return nil
	}
	err := apierrors.NewForbidden(r.GroupResource(), name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", namespace), Field: "metadata.namespace",
	}}
	return err
}

// Kubernetes' own bounds of a generated name: https://kubernetes.io/docs/reference/using-api/api-concepts/#generated-values
const (
	generatedSuffix = 5
	generatedBase   = 63 - generatedSuffix
	generatedTries  = 8 // So many names may be taken.
)

func generateName(base string) string {
	return base[:min(len(base), generatedBase)] + rand.String(generatedSuffix)
}

// beginLife sets what only the server may say of a new object.
func beginLife(r *api.Resource, obj runtime.Object, m metav1.Object) {
	m.SetUID(uuid.NewUUID())
	m.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	m.SetSelfLink("")
	m.SetGeneration(0)
	if r.Wanted != nil {
		m.SetGeneration(1)
	}
	if _, ok := r.Sub("status"); ok && !r.StatusOnCreate {
		setStatus(obj, nil)
	}
	obj.GetObjectKind().SetGroupVersionKind(r.Stored().GroupVersionKind())
}

func dropGated(r *api.Resource, obj runtime.Object) {
	if r.DropGated != nil {
		r.DropGated(obj)
	}
}

// setStatus gives obj the status of another object of its kind, which it shares from then on; of nil, an empty one.
func setStatus(obj, from runtime.Object) {
	if custom, ok := obj.(*unstructured.Unstructured); ok {
		delete(custom.Object, "status")
		if from != nil {
			if status, ok := from.(*unstructured.Unstructured).Object["status"]; ok {
				custom.Object["status"] = status
			}
		}
		return
	}
	status := reflect.ValueOf(obj).Elem().FieldByName("Status")
	if from == nil {
		status.SetZero()
		return
	}
	status.Set(reflect.ValueOf(from).Elem().FieldByName("Status"))
}

// validate finds what is wrong with a new object that has this stored form.
func (s *Server) validate(r *api.Resource, obj runtime.Object, stored []byte) field.ErrorList {
	name := r.ValidateName
	if name == nil {
		name = metavalidation.NameIsDNSSubdomain
	}
	errs := metavalidation.ValidateObjectMetaAccessor(metaOf(obj), r.Namespaced, name, field.NewPath("metadata"))
	errs = append(errs, validateFinalizers(r, obj)...)
	if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.Resources == nil { // Of theirs it matters whether a list is there, which is not stored.
		errs = append(errs, s.verdicts.pod(stored, func() field.ErrorList { return r.Validate(obj) })...)
	} else if r.Validate != nil {
		errs = append(errs, r.Validate(obj)...)
	}
	if r.ValidateCreate != nil {
		errs = append(errs, r.ValidateCreate(obj)...)
	}
	return errs
}

func validateFinalizers(r *api.Resource, obj runtime.Object) field.ErrorList {
	if r.AnyFinalizer || r.Custom {
		return nil
	}
	return api.ValidateFinalizers(field.NewPath("metadata", "finalizers"), metaOf(obj).GetFinalizers())
}

// change makes the new version of an object out of the stored one, which it must not alter. It may be called more than
// once, each time with what is stored then.
type change func(old runtime.Object) (runtime.Object, error)

// Writers that race for one object try again so often before they give up. Each time one of the others has come through.
const maxTries = 64

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
		if err := s.cache.catchUp(ctx, sh, key); err != nil {
			return nil, err
		}
	}
}

// replace writes obj in the place of a stored object. again tells that the stored one is no longer it.
func (s *Server) replace(ctx context.Context, sh *shelf, it *item, obj runtime.Object, sub string, dry bool) (_ runtime.Object, again bool, err error) {
	r := sh.resource
	obj, err = follow(r, obj, it, sub)
	if err != nil {
		return nil, false, err
	}
	given, err := s.allocate(sh, obj, it.obj, sub)
	if err != nil {
		return nil, false, err
	}
	defer given.done()
	if errs := validateUpdate(r, obj, it.obj, sub); len(errs) > 0 {
		return nil, false, apierrors.NewInvalid(r.GroupVersionKind().GroupKind(), it.meta().GetName(), errs)
	}
	if err := s.admitChange(obj, it.obj, sub); err != nil {
		return nil, false, err
	}
	if !finished(obj) && unchanged(obj, it.obj) {
		return it.obj, false, nil // Nothing changes, so there is nothing to write, and no event.
	}
	if dry {
		return obj, false, nil
	}
	if err := given.claim(ctx); err != nil {
		return nil, false, err
	}
	err = given.inTime()
	switch {
	case err != nil:
	case finished(obj):
		err = s.cache.remove(ctx, sh, it.key, it.rev)
	default:
		err = s.cache.put(ctx, sh, it.key, obj, it.rev)
	}
	given.written(ctx, err)
	if svc, ok := it.obj.(*corev1.Service); ok && err == nil && finished(obj) {
		s.releaseAll(ctx, holdings(svc), svc)
	}
	switch {
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
		return nil, true, conflict(r, it.meta().GetName())
	case err != nil:
		return nil, false, err
	}
	return obj, false, nil
}

// unchanged tells whether an object is what it was before. That somebody wrote the same again is no change: the times of
// managed fields do not count.
func unchanged(obj, old runtime.Object) bool {
	m := metaOf(obj)
	now, before := m.GetManagedFields(), metaOf(old).GetManagedFields()
	same := slices.EqualFunc(now, before, func(a, b metav1.ManagedFieldsEntry) bool {
		a.Time, b.Time = nil, nil
		return api.Same(&a, &b)
	})
	if !same {
		return false
	}
	m.SetManagedFields(before)
	defer m.SetManagedFields(now)
	return api.Same(obj, old)
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
	m, old := metaOf(obj), it.meta()
	if rv := m.GetResourceVersion(); rv != "" && rv != strconv.FormatUint(it.rev, 10) {
		if _, err := strconv.ParseUint(rv, 10, 64); err != nil {
			return nil, unclassified(err)
		}
		return nil, conflict(r, old.GetName())
	}
	if uid := m.GetUID(); uid != "" && uid != old.GetUID() {
		return nil, apierrors.NewConflict(r.GroupResource(), old.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: %s", uid, old.GetUID()))
	}
	s, _ := r.Sub(sub)
	if ofStatus(sub) {
		obj = withStatus(s, it.obj, obj)
		m = metaOf(obj)
	}
	if s.Prepare != nil {
		s.Prepare(obj, it.obj)
	}
	if ofStatus(sub) && r.Default != nil {
		r.Default(obj)
	}
	dropGated(r, obj)
	m.SetResourceVersion(old.GetResourceVersion())
	m.SetUID(old.GetUID())
	m.SetCreationTimestamp(old.GetCreationTimestamp())
	m.SetSelfLink("")
	if sub != subDelete && old.GetDeletionTimestamp() != nil { // Nobody takes a deletion back. That nobody begins one so, the validation sees to.
		m.SetDeletionTimestamp(old.GetDeletionTimestamp())
		m.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
	obj.GetObjectKind().SetGroupVersionKind(r.Stored().GroupVersionKind())
	if sub == "" {
		if _, ok := r.Sub("status"); ok {
			setStatus(obj, onlyStatus(r, it.obj))
		}
		if r.Default != nil {
			r.Default(obj)
		}
		admitUpdate(obj, it.obj)
		if r.PrepareUpdate != nil {
			r.PrepareUpdate(obj, it.obj)
		}
	}
	m.SetGeneration(old.GetGeneration())
	if r.Wanted != nil && isNewGeneration(r, obj, it.obj, sub) {
		m.SetGeneration(old.GetGeneration() + 1)
	}
	return obj, nil
}

// onlyStatus is a copy of an object's status, in an object that has nothing else.
func onlyStatus(r *api.Resource, obj runtime.Object) runtime.Object {
	status := r.Stored().New()
	setStatus(status, obj)
	return status.DeepCopyObject()
}

// subDelete marks the change that begins an object's deletion.
const subDelete = "delete"

// isNewGeneration tells whether something else is wanted of the object than before; that it goes is such a thing too.
// What other subresources do carries out what is wanted already: a pod that is bound to a node keeps its generation.
func isNewGeneration(r *api.Resource, obj, old runtime.Object, sub string) bool {
	switch sub {
	case subDelete:
		return metaOf(old).GetDeletionTimestamp() == nil
	case "", "ephemeralcontainers", "resize":
		return !api.Same(r.Wanted(obj), r.Wanted(old))
	}
	return false
}

// ofStatus tells the subresources through which the status is written.
func ofStatus(sub string) bool { return sub == "status" || sub == "approval" }

// withStatus is the stored object with the status of another, and with what of its metadata is written with that.
func withStatus(sub api.Sub, old, obj runtime.Object) runtime.Object {
	next := old.DeepCopyObject()
	setStatus(next, obj)
	m, from := metaOf(next), metaOf(obj)
	m.SetManagedFields(from.GetManagedFields())
	writes := func(part string) bool { return !slices.Contains(sub.Keeps, part) }
	if writes("labels") {
		m.SetLabels(from.GetLabels())
	}
	if writes("annotations") {
		m.SetAnnotations(from.GetAnnotations())
	}
	if writes("finalizers") {
		m.SetFinalizers(from.GetFinalizers())
	}
	if writes("ownerReferences") {
		m.SetOwnerReferences(from.GetOwnerReferences())
	}
	return next
}

func validateUpdate(r *api.Resource, obj, old runtime.Object, sub string) field.ErrorList {
	if sub == subDelete {
		return nil // The server's own doing; a client may not change a deletion's time.
	}
	errs := metavalidation.ValidateObjectMetaAccessorUpdate(metaOf(obj), metaOf(old), field.NewPath("metadata"))
	errs = append(errs, validateFinalizers(r, obj)...)
	if sub != "" {
		if s, _ := r.Sub(sub); s.Validate != nil {
			errs = append(errs, s.Validate(obj, old)...)
		}
		return errs
	}
	if r.Validate != nil && !judged(r, obj, old) {
		errs = append(errs, sinceThen(r.Validate(obj), func() field.ErrorList { return r.Validate(old) })...)
	}
	if r.ValidateUpdate != nil {
		errs = append(errs, r.ValidateUpdate(obj, old)...)
	}
	return errs
}

// judged tells whether an object is, in all that its kind's validation looks at, the one that is stored already: whatever is wrong
// with it there, sinceThen would leave out.
func judged(r *api.Resource, obj, old runtime.Object) bool {
	m, was := metaOf(obj), metaOf(old)
	return r.JudgesWanted && m.GetGeneration() == was.GetGeneration() && maps.Equal(m.GetAnnotations(), was.GetAnnotations())
}

// sinceThen leaves out the errors that the stored object has, too: it was stored when the rules were fewer, and this change may be
// about its labels or finalizers, which must remain possible. What is stored has none otherwise, and is looked at only if there are
// any. (Custom resources have a finer rule, by what has changed.)
func sinceThen(errs field.ErrorList, before func() field.ErrorList) field.ErrorList {
	if len(errs) == 0 {
		return nil
	}
	had := map[string]bool{}
	for _, err := range before() {
		had[err.Error()] = true
	}
	return slices.DeleteFunc(errs, func(err *field.Error) bool { return had[err.Error()] })
}
