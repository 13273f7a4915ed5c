package api

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// View makes a row another form of what a different row stores: one object, written through either, seen through both.
// Only what goes over the wire is in the view's own form; the rules of its row take stored objects, as those of the stored
// row do.
//
// Both functions are pure. What they give may share memory with what they were given, but for what the API server sets:
// the kind, the resourceVersion and the other plain fields of the metadata.
type View struct {
	Of *Resource // The row that stores.
	// Show is the view of a stored object, complete with its kind.
	Show func(stored runtime.Object) runtime.Object
	// Store is the object to store for a view that a client sent. It fills in the view's own defaults. An error is a Status
	// that says what the client got wrong.
	Store func(shown runtime.Object) (runtime.Object, error)
}

// Stored is the row that stores the objects of this one: the row itself, if it is no view.
func (r *Resource) Stored() *Resource {
	if r.View == nil {
		return r
	}
	return r.View.Of
}

// Show is a stored object in the row's own form.
func (r *Resource) Show(stored runtime.Object) runtime.Object {
	if r.View == nil {
		return stored
	}
	return r.View.Show(stored)
}

// Store is an object of the row's own form as it is stored.
func (r *Resource) Store(shown runtime.Object) (runtime.Object, error) {
	if r.View == nil {
		return shown, nil
	}
	return r.View.Store(shown)
}

// viewOf makes a row that shows what another stores, by the same rules, in another group and version.
func viewOf[S, V any, PS interface {
	*S
	runtime.Object
}, PV interface {
	*V
	runtime.Object
}](of *Resource, as schema.GroupVersion, show func(*S) *V, store func(*V) (*S, error)) *Resource {
	r := *of
	r.Group, r.Version = as.Group, as.Version
	r.View = &View{
		Of: of,
		Show: func(stored runtime.Object) runtime.Object {
			shown := PV(show(stored.(PS)))
			shown.GetObjectKind().SetGroupVersionKind(as.WithKind(of.Kind))
			return shown
		},
		Store: func(shown runtime.Object) (runtime.Object, error) {
			obj, err := store(shown.(PV))
			if err != nil {
				return nil, err
			}
			stored := PS(obj)
			stored.GetObjectKind().SetGroupVersionKind(of.GroupVersionKind())
			return stored, nil
		},
	}
	return &r
}
