package apiserver

import (
	"errors"
	"fmt"
	"net/http"

	"skiff/api"

	"github.com/go-chi/chi/v5"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// subRoutes routes one subresource. The table says which there are; here is what each does.
func (h *resource) subRoutes(mux chi.Router, path string, sub api.Sub) {
	route := func(method, verb string, next handler) {
		mux.Method(method, path, h.may(verb, sub.Name, next))
	}
	switch sub.Name {
	case "status", "approval", "ephemeralcontainers", "resize":
		route(http.MethodGet, "get", h.getOne)
		route(http.MethodPut, "update", func(w http.ResponseWriter, r *http.Request) error { return h.replace(w, r, sub.Name) })
		route(http.MethodPatch, "patch", func(w http.ResponseWriter, r *http.Request) error { return h.patchSub(w, r, sub.Name) })
	case "finalize":
		route(http.MethodPut, "update", h.finalize)
	case "scale":
		route(http.MethodGet, "get", h.getScale)
		route(http.MethodPut, "update", h.putScale)
		route(http.MethodPatch, "patch", h.patchScale)
	case "binding":
		route(http.MethodPost, "create", h.bind)
	case "eviction":
		route(http.MethodPost, "create", h.evict)
	case "token":
		route(http.MethodPost, "create", h.requestToken)
	case "log":
		route(http.MethodGet, "get", h.logs)
	case "exec", "attach", "portforward":
		route(http.MethodGet, "get", h.connect(sub.Name))
		route(http.MethodPost, "create", h.connect(sub.Name))
	case "proxy":
		h.proxyRoutes(mux, path)
	default:
		panic(fmt.Sprintf("the table has a subresource that no code serves: %s/%s", h.Name, sub.Name))
	}
}

// finalize takes finalizers away from a namespace's spec; without any, a namespace that is being deleted goes.
func (h *resource) finalize(w http.ResponseWriter, r *http.Request) error {
	o, err := parseWrite(r, h.Resource)
	if err != nil {
		return err
	}
	obj, err := h.read(r, o.validation)
	if err != nil {
		return err
	}
	if err := sameName(r, obj); err != nil {
		return o.validation.beside(w, err)
	}
	in := obj.(*corev1.Namespace)
	return h.change(w, r, "finalize", o, h.recorded("finalize", o, func(old runtime.Object) (runtime.Object, error) {
		ns := old.DeepCopyObject().(*corev1.Namespace)
		ns.ResourceVersion = in.ResourceVersion
		ns.UID = in.UID
		ns.Spec.Finalizers = in.Spec.Finalizers
		return ns, nil
	}))
}

var bindingKind = corev1.SchemeGroupVersion.WithKind("Binding")

// bind assigns a pod to a node, once. The pod is the one of the path, or, where this ends in bindings, of the Binding.
func (h *resource) bind(w http.ResponseWriter, r *http.Request) error {
	o, err := parseWrite(r, nil)
	if err != nil {
		return err
	}
	obj, err := readKind(r, bindingKind, o.validation)
	if err != nil {
		return err
	}
	b, namespace := obj.(*corev1.Binding), chi.URLParam(r, "namespace")
	if name := chi.URLParam(r, "name"); name != "" && name != b.Name {
		return apierrors.NewBadRequest("name in URL does not match name in Binding object")
	} else if b.Name == "" {
		return apierrors.NewBadRequest("Name parameter required.")
	}
	if err := sameNamespace(b, namespace); err != nil {
		return err
	}
	if errs := validateBinding(b); len(errs) > 0 {
		return apierrors.NewInvalid(bindingKind.GroupKind(), b.Name, errs)
	}
	_, err = h.server.modify(r.Context(), h.server.shelf("pods"), objectKey(namespace, b.Name), "binding", o.dry, func(old runtime.Object) (runtime.Object, error) {
		return bound(old.(*corev1.Pod), b, h.server.topologyOf(b.Target.Name))
	})
	if err != nil {
		return err
	}
	return respondStatus(w, r, http.StatusCreated, success(http.StatusCreated))
}

// success is the answer to what has no object to show.
func success(code int32) *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: code}
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	at := field.NewPath("target")
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(at.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	return errs
}

// bound is the pod on the node that the binding says. It gets the binding's annotations and, where it does not say otherwise
// itself, the labels: those of the binding, and where in the world the node is.
func bound(old *corev1.Pod, b *corev1.Binding, topology map[string]string) (*corev1.Pod, error) {
	refuse := func(why string) error {
		return apierrors.NewConflict(corev1.Resource("pods/binding"), old.Name, errors.New(why))
	}
	switch {
	case b.UID != "" && b.UID != old.UID:
		return nil, refuse(fmt.Sprintf("Precondition failed: UID in precondition: %s, UID in object meta: %s", b.UID, old.UID))
	case b.ResourceVersion != "" && b.ResourceVersion != old.ResourceVersion:
		return nil, refuse(fmt.Sprintf("Precondition failed: ResourceVersion in precondition: %s, ResourceVersion in object meta: %s", b.ResourceVersion, old.ResourceVersion))
	case old.DeletionTimestamp != nil:
		return nil, refuse(fmt.Sprintf("pod %s is being deleted, cannot be assigned to a host", old.Name))
	case len(old.Spec.SchedulingGates) > 0:
		return nil, refuse(fmt.Sprintf("pod %s has non-empty .spec.schedulingGates", old.Name))
	case old.Spec.NodeName != "":
		return nil, refuse(fmt.Sprintf("pod %s is already assigned to node %q", old.Name, old.Spec.NodeName))
	}
	pod := old.DeepCopy()
	pod.Spec.NodeName = b.Target.Name
	for k, v := range b.Annotations {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, k, v)
	}
	addLabels(pod, b.Labels)
	addLabels(pod, topology)
	setPodCondition(&pod.Status, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now().Rfc3339Copy()})
	return pod, nil
}

// A Scale is a view of an object that can be told how many replicas it shall have.
// https://kubernetes.io/docs/reference/kubernetes-api/autoscaling-resources/horizontal-pod-autoscaler-v1/

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scaleForm is the Scale as a row of the table, as far as it is one.
var scaleForm = &api.Resource{
	Group: scaleKind.Group, Version: scaleKind.Version, Kind: scaleKind.Kind,
	Columns: api.ScaleColumns(),
	Row:     func(obj runtime.Object) []any { return api.ScaleRow(obj.(*autoscalingv1.Scale)) },
}

func scaleOf(r *api.Resource, obj runtime.Object) (*autoscalingv1.Scale, error) {
	now := r.Scale(obj)
	selector, err := metav1.LabelSelectorAsSelector(now.Selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector: %w", err)
	}
	m := metadata(obj)
	s := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp},
		Spec:       autoscalingv1.ScaleSpec{Replicas: now.Wanted},
		Status:     autoscalingv1.ScaleStatus{Replicas: now.Present, Selector: selector.String()},
	}
	s.SetGroupVersionKind(scaleKind)
	return s, nil
}

func (h *resource) getScale(w http.ResponseWriter, r *http.Request) error {
	it, err := h.find(r)
	if err != nil {
		return err
	}
	scale, err := scaleOf(h.Resource, it.obj)
	if err != nil {
		return err
	}
	return serveItem(w, r, scaleForm, http.StatusOK, &item{obj: scale})
}

func (h *resource) putScale(w http.ResponseWriter, r *http.Request) error {
	o, err := parseWrite(r, scaleForm)
	if err != nil {
		return err
	}
	obj, err := readKind(r, scaleKind, o.validation)
	if err != nil {
		return err
	}
	if err := sameName(r, obj); err != nil {
		return o.validation.beside(w, err)
	}
	return h.changeScale(w, r, o, h.recorded("scale", o, func(runtime.Object) (runtime.Object, error) { return obj.DeepCopyObject(), nil }))
}

func (h *resource) patchScale(w http.ResponseWriter, r *http.Request) error {
	o, err := parseWrite(r, scaleForm)
	if err != nil {
		return err
	}
	p, err := h.readPatch(r)
	if err != nil {
		return err
	}
	return h.changeScale(w, r, o, h.patched(r, "scale", o, p))
}

// changeScale brings a change of an object's Scale to the object. Who owns the one's replicas owns the other's.
func (h *resource) changeScale(w http.ResponseWriter, r *http.Request, o write, f change) error {
	obj, err := h.server.modify(r.Context(), h.shelf, h.key(r), "", o.dry, func(old runtime.Object) (runtime.Object, error) {
		before, err := scaleOf(h.Resource, old)
		if err != nil {
			return nil, err
		}
		owners := scaleOwners(h.Resource, old)
		if before.ManagedFields, err = owners.ToSubresource(); err != nil {
			return nil, fmt.Errorf("read the managed fields: %w", err)
		}
		after, err := f(before)
		if err != nil {
			return nil, err
		}
		scale := after.(*autoscalingv1.Scale)
		if scale.Spec.Replicas < 0 {
			return nil, apierrors.NewInvalid(scaleKind.GroupKind(), before.Name, field.ErrorList{
				field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0")})
		}
		fields, err := owners.ToParent(scale.ManagedFields)
		if err != nil {
			return nil, fmt.Errorf("write the managed fields: %w", err)
		}
		next := old.DeepCopyObject()
		metaOf(next).SetResourceVersion(scale.ResourceVersion)
		metaOf(next).SetUID(scale.UID)
		metaOf(next).SetManagedFields(fields)
		h.SetReplicas(next, scale.Spec.Replicas)
		return next, nil
	})
	if err != nil {
		return o.validation.beside(w, err)
	}
	scale, err := scaleOf(h.Resource, obj)
	if err != nil {
		return err
	}
	o.validation.send(w)
	return serveItem(w, r, scaleForm, http.StatusOK, &item{obj: scale})
}
