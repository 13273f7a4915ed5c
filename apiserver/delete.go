package apiserver

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"

	"skiff/api"
	"skiff/apiserver/custom"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metascheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// finished tells whether an object that is being deleted has nothing left that holds it.
func finished(obj runtime.Object) bool {
	m := metaOf(obj)
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
	evicts   bool // A pod, which is marked so.
}

// delete removes an object, or begins its deletion where a grace period or a finalizer holds it. It returns the object's
// last state and whether it is gone.
func (s *Server) delete(ctx context.Context, sh *shelf, key string, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	return s.end(ctx, sh, key, deletion{resource: sh.resource, options: o, now: metav1.Now().Rfc3339Copy()})
}

// end carries out a deletion.
func (s *Server) end(ctx context.Context, sh *shelf, key string, d deletion) (runtime.Object, bool, error) {
	for try := 1; ; try++ {
		it := sh.get(key)
		if it == nil {
			return nil, false, notFound(sh.resource, key)
		}
		if err := d.check(it); err != nil {
			return nil, false, err
		}
		next := d.begin(it.obj)
		obj, again, err := s.replace(ctx, sh, it, next, subDelete, isDry(d.options.DryRun))
		if !again || try == maxTries {
			return obj, finished(next), err
		}
		if err := s.cache.catchUp(ctx, sh, key); err != nil {
			return nil, false, err
		}
	}
}

// protected namespaces are what the cluster itself lives in, as Kubernetes' admission plugin NamespaceLifecycle names them.
var protected = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

func (d deletion) check(it *item) error {
	m := it.meta()
	r := d.resource
	if ptrOr(d.options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) { // It is for what can't be read, and this was.
		return apierrors.NewConflict(r.GroupResource(), m.GetName(), errors.New("unsafe deletion is not allowed because the object is decodable from storage"))
	}
	if p := d.options.Preconditions; p != nil {
		kind := schema.GroupResource{Group: r.Group, Resource: r.Kind} // As Kubernetes calls it here.
		if p.UID != nil && *p.UID != m.GetUID() {
			return apierrors.NewConflict(kind, m.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, m.GetUID()))
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
			return apierrors.NewConflict(kind, m.GetName(), fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, m.GetResourceVersion()))
		}
	}
	if r.Kind == "Namespace" && slices.Contains(protected, m.GetName()) {
		return apierrors.NewForbidden(r.GroupResource(), m.GetName(), errors.New("this namespace may not be deleted"))
	}
	if r.Kind == "PriorityClass" && api.IsSystemPriorityClass(m.GetName()) {
		return apierrors.NewForbidden(r.GroupResource(), m.GetName(), errors.New("this is a system priority class and cannot be deleted"))
	}
	return nil
}

// begin is the object as it is once its deletion has begun.
func (d deletion) begin(old runtime.Object) runtime.Object {
	obj := old.DeepCopyObject()
	m := metaOf(obj)
	grace := d.grace(obj)
	if pod, ok := obj.(*corev1.Pod); ok && d.evicts {
		disrupt(pod, d.now)
	}
	m.SetFinalizers(d.finalizers(m.GetFinalizers()))
	since := d.now
	if at := m.GetDeletionTimestamp(); at != nil { // A second request may only make the wait shorter, if it says so.
		before := ptrOr(m.GetDeletionGracePeriodSeconds(), 0)
		if d.options.GracePeriodSeconds == nil || grace >= before {
			return obj
		}
		since = metav1.NewTime(at.Add(-seconds(before)))
	}
	at := metav1.NewTime(since.Add(seconds(grace)))
	m.SetDeletionTimestamp(&at)
	m.SetDeletionGracePeriodSeconds(&grace)
	switch o := obj.(type) {
	case *corev1.Namespace:
		o.Status.Phase = corev1.NamespaceTerminating
	case *apiextensionsv1.CustomResourceDefinition:
		custom.Terminate(o, d.now)
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
	grace := ptrOr(d.options.GracePeriodSeconds, ptrOr(pod.Spec.TerminationGracePeriodSeconds, 0))
	if grace < 0 {
		return 1 // As Kubernetes reads it.
	}
	return grace
}

// finalizers are those that the object has, with the one that the propagation policy asks for. Who names no policy leaves
// an earlier one as it is. Events own nothing: nobody would ever take the finalizer off.
func (d deletion) finalizers(have []string) []string {
	policy := propagation(d.options)
	if policy == "" && d.resource.Orphans && !slices.ContainsFunc(have, ofPropagation) {
		policy = metav1.DeletePropagationOrphan
	}
	if policy == "" || d.resource.Kind == "Event" {
		return have
	}
	out := slices.DeleteFunc(slices.Clone(have), ofPropagation)
	switch policy {
	case metav1.DeletePropagationOrphan:
		out = append(out, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// propagation is the policy that a client asks for; "" if it says nothing of it.
func propagation(o *metav1.DeleteOptions) metav1.DeletionPropagation {
	switch orphan := o.OrphanDependents; {
	case orphan == nil:
		return ptrOr(o.PropagationPolicy, "")
	case *orphan:
		return metav1.DeletePropagationOrphan
	}
	return metav1.DeletePropagationBackground
}

func ofPropagation(finalizer string) bool {
	return finalizer == metav1.FinalizerOrphanDependents || finalizer == metav1.FinalizerDeleteDependents
}

// warnOfOrphans tells a client that names no policy of what it may not expect.
func (h *resource) warnOfOrphans(w http.ResponseWriter, o *metav1.DeleteOptions) {
	if h.OrphansWarning != "" && propagation(o) == "" {
		warn(w, h.OrphansWarning)
	}
}

// last is how an object that is gone is shown. When it was to end is said only of a pod, which alone ends gracefully.
func last(obj runtime.Object) runtime.Object {
	if _, ok := obj.(*corev1.Pod); ok {
		return obj
	}
	obj = obj.DeepCopyObject()
	metaOf(obj).SetDeletionTimestamp(nil)
	metaOf(obj).SetDeletionGracePeriodSeconds(nil)
	return obj
}

// deleted is the answer where an object is gone at once, for most kinds.
func deleted(r *api.Resource, m metav1.Object) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Details:  &metav1.StatusDetails{Name: m.GetName(), Group: r.Group, Kind: r.Name, UID: types.UID(m.GetUID())},
	}
}

var deleteOptionsKind = metav1.SchemeGroupVersion.WithKind("DeleteOptions")

// deleteOptions reads them from the body, or from the query where there is no body.
func deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	body, err := readBody(r)
	switch {
	case err != nil:
		return nil, err
	case len(body) > 0:
		if err := decodeDeleteOptions(body, r.Header.Get("Content-Type"), o); err != nil {
			return nil, err
		}
	default:
		if err := metascheme.ParameterCodec.DecodeParameters(r.URL.Query(), metav1.SchemeGroupVersion, o); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	return o, checkDeleteOptions(o)
}

func checkDeleteOptions(o *metav1.DeleteOptions) error {
	if errs := metav1validation.ValidateDeleteOptions(o); len(errs) > 0 {
		return invalidDeleteOptions(errs)
	}
	return nil
}

func invalidDeleteOptions(errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: deleteOptionsKind.Kind}, "", errs)
}

// decodeDeleteOptions reads the options under the name of any group version. Clients call them after the group of what they
// delete, and the groups of custom resources are in no scheme.
func decodeDeleteOptions(body []byte, contentType string, o *metav1.DeleteOptions) error {
	media, _, err := mime.ParseMediaType(contentType)
	if contentType == "" {
		media, err = typeJSON, nil
	}
	info, ok := runtime.SerializerInfoForMediaType(metascheme.Codecs.SupportedMediaTypes(), media)
	if err != nil || !ok {
		return unsupportedMediaType(contentType, typeJSON, typeYAML, typeProto)
	}
	obj, _, err := metascheme.Codecs.DecoderToVersion(info.Serializer, metav1.SchemeGroupVersion).Decode(body, &deleteOptionsKind, o)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if obj != o {
		return apierrors.NewBadRequest("decoded object cannot be converted to DeleteOptions")
	}
	return nil
}

func (h *resource) deleteOne(w http.ResponseWriter, r *http.Request) error {
	if _, err := negotiateRow(r, h.Resource, "Table", "PartialObjectMetadata"); err != nil {
		return err // Before anything is gone.
	}
	o, err := deleteOptions(r)
	if err != nil {
		return err
	}
	h.warnOfOrphans(w, o)
	obj, gone, err := h.server.delete(r.Context(), h.shelf, h.key(r), o)
	if err != nil {
		return err
	}
	switch {
	case gone && h.ShowsDeleted:
		return serveItem(w, r, h.Resource, http.StatusOK, &item{obj: last(obj)})
	case gone:
		return respondStatus(w, r, http.StatusOK, deleted(h.Resource, metaOf(obj)))
	}
	code := http.StatusOK
	if orphan := o.OrphanDependents; orphan != nil && !*orphan { // For clients of old, which ask for a cascade by this.
		code = http.StatusAccepted
	}
	return serveItem(w, r, h.Resource, code, &item{obj: obj})
}

// deleteAll deletes what a list with the same parameters would show, a page of it if they say so, and answers with that list.
func (h *resource) deleteAll(w http.ResponseWriter, r *http.Request) error {
	if _, err := negotiateRow(r, h.Resource, "Table", "PartialObjectMetadataList"); err != nil {
		return err
	}
	sel, list, err := h.selection(r)
	if err != nil {
		return err
	}
	o, err := deleteOptions(r)
	if err != nil {
		return err
	}
	if ptrOr(o.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		at := field.NewPath("ignoreStoreReadErrorWithClusterBreakingPotential")
		return invalidDeleteOptions(field.ErrorList{field.Invalid(at, true, "is not allowed with DELETECOLLECTION, try again after removing the option")})
	}
	h.warnOfOrphans(w, o)
	p, err := h.server.list(r.Context(), h.shelf, sel, list)
	if err != nil {
		return err
	}
	for _, it := range p.items {
		if _, _, err := h.server.delete(r.Context(), h.shelf, it.key, o); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return serveList(w, r, h.Resource, p)
}
