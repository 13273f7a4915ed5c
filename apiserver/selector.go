package apiserver

import (
	"fmt"
	"net/url"

	"skiff/api"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
)

// selection says which objects of a resource a request is about: those of a namespace and of its selectors.
type selection struct {
	resource  *api.Resource
	namespace string // "" for all.
	labels    labels.Selector
	fields    fields.Selector
}

// parseSelection reads the labelSelector and fieldSelector parameters.
// https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/
func parseSelection(r *api.Resource, namespace string, query url.Values) (selection, error) {
	sel := selection{resource: r, namespace: namespace, labels: labels.Everything(), fields: fields.Everything()}
	var err error
	if text := query.Get("labelSelector"); text != "" {
		if sel.labels, err = labels.Parse(text); err != nil {
			return sel, apierrors.NewBadRequest(fmt.Sprintf("unable to parse requirement: %v", err))
		}
	}
	if text := query.Get("fieldSelector"); text != "" {
		if sel.fields, err = fields.ParseSelector(text); err != nil {
			return sel, apierrors.NewBadRequest(err.Error())
		}
		known := sel.fieldSet(&item{obj: r.New()})
		for _, req := range sel.fields.Requirements() {
			if !known.Has(req.Field) {
				return sel, apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s", req.Field))
			}
		}
	}
	return sel, nil
}

func (s selection) fieldSet(it *item) fields.Set {
	set := fields.Set{}
	if s.resource.Fields != nil {
		set = s.resource.Fields(it.obj)
	}
	m := it.meta()
	set["metadata.name"] = m.GetName()
	if s.resource.Namespaced {
		set["metadata.namespace"] = m.GetNamespace()
	}
	return set
}

// everything tells whether no selector leaves an object out, so that counting them is counting all.
func (s selection) everything() bool { return s.labels.Empty() && s.fields.Empty() }

func (s selection) match(it *item) bool {
	if it == nil {
		return false
	}
	if s.namespace != "" && it.meta().GetNamespace() != s.namespace {
		return false
	}
	if !s.labels.Empty() && !s.labels.Matches(it.labels()) {
		return false
	}
	return s.fields.Empty() || s.fields.Matches(s.fieldSet(it))
}

// view is how an event looks to a watcher with this selection: an object that comes to match is added, one that ceases
// to is deleted. ok is false where there is nothing to tell.
func (s selection) view(ev event) (_ event, ok bool) {
	if ev.kind == watch.Bookmark {
		return ev, true
	}
	now, before := s.match(ev.item), s.match(ev.prev)
	if ev.kind == watch.Deleted {
		return ev, before
	}
	switch {
	case now && before:
		ev.kind = watch.Modified
	case now:
		ev.kind = watch.Added
	case before:
		ev.kind = watch.Deleted
		ev.item = lastState(ev.prev, ev.rev)
	default:
		return ev, false
	}
	return ev, true
}
