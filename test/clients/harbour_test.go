package clients

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// testOperator leads a custom resource through its life, with an operator that keeps it.
func testOperator(t *testing.T, s *server) {
	space := s.space(t)
	c := s.runOperator(t, space)
	key := client.ObjectKey{Namespace: space, Name: "visby"}
	harbour := &Harbour{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "visby"}, Spec: HarbourSpec{Piers: 2}}
	if err := c.Create(t.Context(), harbour); err != nil {
		t.Fatal(err)
	}
	if harbour.Spec.Greeting != "ahoy" || harbour.Generation != 1 {
		t.Errorf("the new object is %+v, want the greeting ahoy and generation 1", harbour)
	}
	eventually(t, func() error { return built(t.Context(), c, key, 1, 2, "ahoy") })

	sign := &corev1.ConfigMap{}
	if err := c.Get(t.Context(), key, sign); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), sign); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return built(t.Context(), c, key, 1, 2, "ahoy") }) // It is there again.

	if err := c.Get(t.Context(), key, harbour); err != nil {
		t.Fatal(err)
	}
	before := clone(harbour)
	harbour.Spec = HarbourSpec{Greeting: "hej", Piers: 3}
	if err := c.Patch(t.Context(), harbour, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return built(t.Context(), c, key, 2, 3, "hej") })
	tooMany := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"piers":10}}`))
	if err := c.Patch(t.Context(), harbour, tooMany); !apierrors.IsInvalid(err) {
		t.Errorf("ten piers are answered with %v, want invalid", err)
	}
	s.printsHarbours(t, space)
	scale := &autoscalingv1.Scale{}
	if err := c.SubResource("scale").Get(t.Context(), harbour, scale); err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = 4
	if err := c.SubResource("scale").Update(t.Context(), harbour, client.WithSubResourceBody(scale)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return built(t.Context(), c, key, 3, 4, "hej") })
	checksHarbours(t, c, space)
	eventually(t, func() error { return opened(t.Context(), c, space) })

	if err := c.Delete(t.Context(), harbour, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return closed(t.Context(), c, key) })
}

// checksHarbours has harbours looked at by the server that are not to be made.
func checksHarbours(t *testing.T, c client.Client, space string) {
	t.Helper()
	plan := &Harbour{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "plan"}, Spec: HarbourSpec{Piers: 1}}
	if err := c.Create(t.Context(), plan, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(plan), &Harbour{}); plan.Spec.Greeting != "ahoy" || !apierrors.IsNotFound(err) {
		t.Errorf("the dry run made %+v; asked for it, the server says %v", plan, err)
	}
	misspelt := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"piers": int64(1), "peers": int64(1)}}}
	misspelt.SetGroupVersionKind(harbours.WithKind("Harbour"))
	misspelt.SetNamespace(space)
	misspelt.SetName("misspelt")
	err := client.WithFieldValidation(c, metav1.FieldValidationStrict).Create(t.Context(), misspelt)
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `strict decoding error: unknown field "spec.peers"`) {
		t.Errorf("an unknown field is answered with %v", err)
	}
}

// built returns nil if harbour, sign and piers are what the generation asks for.
func built(ctx context.Context, c client.Client, key client.ObjectKey, generation int64, piers int32, greeting string) error {
	harbour, sign, deployment := &Harbour{}, &corev1.ConfigMap{}, &appsv1.Deployment{}
	for _, obj := range []client.Object{harbour, sign, deployment} {
		if err := c.Get(ctx, key, obj); err != nil {
			return err
		}
	}
	open := meta.FindStatusCondition(harbour.Status.Conditions, "Open")
	switch {
	case harbour.Generation != generation || open == nil || open.ObservedGeneration != generation:
		return fmt.Errorf("the harbour is %+v, want generation %d, observed", harbour, generation)
	case !metav1.IsControlledBy(sign, harbour) || sign.Data["sign"] != greeting:
		return fmt.Errorf("the sign is %v, want %s", sign, greeting)
	case !metav1.IsControlledBy(deployment, harbour) || *deployment.Spec.Replicas != piers:
		return fmt.Errorf("the deployment is %v, want %d replicas", deployment, piers)
	}
	return nil
}

// opened returns nil if the operator's event has come, and its lease is held.
func opened(ctx context.Context, c client.Client, space string) error {
	lease := &coordinationv1.Lease{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: space, Name: operatorName}, lease); err != nil {
		return err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return fmt.Errorf("nobody holds the operator's lease")
	}
	news := &eventsv1.EventList{}
	err := c.List(ctx, news, client.InNamespace(space), client.MatchingFields{"regarding.kind": "Harbour", "reportingController": operatorName})
	if err == nil && len(news.Items) == 0 {
		err = fmt.Errorf("the operator has told no news")
	}
	return err
}

// closed returns nil if the finalizer has been served and nothing that belonged to the harbour is left.
func closed(ctx context.Context, c client.Client, key client.ObjectKey) error {
	ledger := &corev1.ConfigMap{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: "ledger"}, ledger); err != nil {
		return err
	}
	if ledger.Data[key.Name] != "closed" {
		return fmt.Errorf("the ledger has %v", ledger.Data)
	}
	for _, obj := range []client.Object{&Harbour{}, &corev1.ConfigMap{}, &appsv1.Deployment{}} {
		if err := c.Get(ctx, key, obj); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%T is still there (%v)", obj, err)
		}
	}
	sets, pods := &appsv1.ReplicaSetList{}, &corev1.PodList{}
	for _, list := range []client.ObjectList{sets, pods} {
		if err := c.List(ctx, list, client.InNamespace(key.Namespace)); err != nil {
			return err
		}
	}
	if left := len(sets.Items) + len(pods.Items); left > 0 {
		return fmt.Errorf("%d replica sets and pods are left", left)
	}
	return nil
}

// printsHarbours looks at the columns of the definition, as kubectl get does.
func (s *server) printsHarbours(t *testing.T, space string) {
	t.Helper()
	request := s.client(t).Discovery().RESTClient().Get().AbsPath("/apis", harbours.Group, harbours.Version, "namespaces", space, "harbours").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	var code int
	table := &metav1.Table{}
	text, err := request.Do(t.Context()).StatusCode(&code).Raw()
	if err != nil || code != http.StatusOK {
		t.Fatalf("%d: %v", code, err)
	}
	if err := runtime.DecodeInto(scheme.Codecs.UniversalDecoder(), text, table); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, column := range table.ColumnDefinitions {
		names = append(names, column.Name)
	}
	if got := fmt.Sprint(names, table.Rows[0].Cells); got != "[Name Piers Open] [visby 3 True]" {
		t.Errorf("the table is %s", got)
	}
}
