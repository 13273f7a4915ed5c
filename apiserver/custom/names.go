package custom

import (
	"errors"
	"fmt"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
)

// Accept is the status of a definition with the decision about its names: accepted are those that neither a row of the server's
// own nor another definition of the group has already. A definition that goes by all names that it asks for is established, and stays it.
func Accept(crd *apiextensionsv1.CustomResourceDefinition, own []*api.Resource, others []*apiextensionsv1.CustomResourceDefinition, now metav1.Time) apiextensionsv1.CustomResourceDefinitionStatus {
	next := crd.DeepCopy()
	accepted := takenNames(crd, own, others).accept(&next.Status.AcceptedNames, &crd.Spec.Names)
	accepted.Type = apiextensionsv1.NamesAccepted
	SetCondition(next, accepted, now)
	established := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted",
	}
	if accepted.Status == apiextensionsv1.ConditionTrue {
		established.Status, established.Reason, established.Message = apiextensionsv1.ConditionTrue, "InitialNamesAccepted", "the initial names have been accepted"
	}
	if !api.IsDefinitionTrue(crd, apiextensionsv1.Established) {
		SetCondition(next, established, now)
	}
	return next.Status
}

// SetCondition sets a condition. Its time stays where its status does.
func SetCondition(crd *apiextensionsv1.CustomResourceDefinition, c apiextensionsv1.CustomResourceDefinitionCondition, now metav1.Time) {
	c.LastTransitionTime = now
	i := slices.IndexFunc(crd.Status.Conditions, func(have apiextensionsv1.CustomResourceDefinitionCondition) bool { return have.Type == c.Type })
	if i < 0 {
		crd.Status.Conditions = append(crd.Status.Conditions, c)
		return
	}
	if have := crd.Status.Conditions[i]; have.Status == c.Status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	crd.Status.Conditions[i] = c
}

// taken are the names of a group that others go by.
type taken struct{ resources, kinds map[string]bool }

func takenNames(crd *apiextensionsv1.CustomResourceDefinition, own []*api.Resource, others []*apiextensionsv1.CustomResourceDefinition) taken {
	t := taken{map[string]bool{}, map[string]bool{}}
	for _, r := range own {
		if r.Group == crd.Spec.Group {
			t.add(r.Name, r.Singular, r.ShortNames, r.Kind, r.ListKind)
		}
	}
	for _, other := range others {
		if other.Spec.Group != crd.Spec.Group || other.Name == crd.Name {
			continue
		}
		names := other.Status.AcceptedNames
		t.add(names.Plural, names.Singular, names.ShortNames, names.Kind, names.ListKind)
	}
	return t
}

func (t taken) add(plural, singular string, short []string, kind, listKind string) {
	for _, name := range append([]string{plural, singular}, short...) {
		t.resources[name] = true
	}
	t.kinds[kind], t.kinds[listKind] = true, true
}

// accept sets those of the names asked for that are free, and says in a condition whether all are.
func (t taken) accept(accepted, asked *apiextensionsv1.CustomResourceDefinitionNames) apiextensionsv1.CustomResourceDefinitionCondition {
	c := apiextensionsv1.CustomResourceDefinitionCondition{Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"}
	conflict := func(reason string, err error) {
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionFalse, reason, err.Error()
	}
	one := func(taken map[string]bool, have *string, want, reason string) {
		if *have != want && taken[want] {
			conflict(reason, inUse(want))
			return
		}
		*have = want
	}
	one(t.resources, &accepted.Plural, asked.Plural, "PluralConflict")
	one(t.resources, &accepted.Singular, asked.Singular, "SingularConflict")
	if !equality.Semantic.DeepEqual(accepted.ShortNames, asked.ShortNames) {
		var errs []error
		for _, name := range asked.ShortNames {
			if t.resources[name] && !slices.Contains(accepted.ShortNames, name) {
				errs = append(errs, inUse(name))
			}
		}
		if err := errors.Join(errs...); err != nil {
			conflict("ShortNamesConflict", err)
		} else {
			accepted.ShortNames = asked.ShortNames
		}
	}
	one(t.kinds, &accepted.Kind, asked.Kind, "KindConflict")
	one(t.kinds, &accepted.ListKind, asked.ListKind, "ListKindConflict")
	accepted.Categories = asked.Categories
	return c
}

func inUse(name string) error { return fmt.Errorf("%q is already in use", name) }

// Terminate marks a definition whose deletion has begun: it stays until its objects are gone.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#delete-a-customresourcedefinition
func Terminate(crd *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
	if !slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		crd.Finalizers = append(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	SetCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	}, now)
}

// WaitsForObjects tells whether a definition is being deleted and its objects may still be there.
func WaitsForObjects(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return crd.DeletionTimestamp != nil && slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
}

// Release lets a definition go whose objects are gone.
func Release(crd *apiextensionsv1.CustomResourceDefinition) {
	crd.Finalizers = slices.DeleteFunc(crd.Finalizers, func(f string) bool { return f == apiextensionsv1.CustomResourceCleanupFinalizer })
}

// DeletionInProgress, DeletionCompleted and NeverEstablished say how far the deletion of a definition's objects is.
func DeletionInProgress() apiextensionsv1.CustomResourceDefinitionCondition {
	return terminating(apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress")
}

func DeletionCompleted() apiextensionsv1.CustomResourceDefinitionCondition {
	return terminating(apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances")
}

func NeverEstablished() apiextensionsv1.CustomResourceDefinitionCondition {
	return terminating(apiextensionsv1.ConditionFalse, "NeverEstablished", "resource was never established")
}

func terminating(status apiextensionsv1.ConditionStatus, reason, message string) apiextensionsv1.CustomResourceDefinitionCondition {
	return apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message}
}
