package clients

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	applyappsv1 "k8s.io/client-go/applyconfigurations/apps/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	operatorName     = "harbour-master"
	harbourFinalizer = "sea.example.com/close"
)

// harbourMaster is a small operator: a Harbour gets a ConfigMap with its sign and a Deployment with its piers.
type harbourMaster struct {
	client.Client
	events events.EventRecorder
}

// Reconcile makes the world what one Harbour says.
func (m *harbourMaster) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	harbour := &Harbour{}
	if err := m.Get(ctx, request.NamespacedName, harbour); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !harbour.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, m.close(ctx, harbour)
	}
	if controllerutil.AddFinalizer(harbour, harbourFinalizer) {
		return ctrl.Result{}, m.Update(ctx, harbour)
	}
	if err := m.putSign(ctx, harbour); err != nil {
		return ctrl.Result{}, err
	}
	if err := m.buildPiers(ctx, harbour); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, m.report(ctx, harbour)
}

// putSign creates or updates the ConfigMap.
func (m *harbourMaster) putSign(ctx context.Context, harbour *Harbour) error {
	sign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: harbour.Namespace, Name: harbour.Name}}
	_, err := controllerutil.CreateOrUpdate(ctx, m.Client, sign, func() error {
		sign.Data = map[string]string{"sign": harbour.Spec.Greeting}
		return controllerutil.SetControllerReference(harbour, sign, m.Scheme())
	})
	return err
}

// buildPiers applies the Deployment.
func (m *harbourMaster) buildPiers(ctx context.Context, harbour *Harbour) error {
	labels := map[string]string{"harbour": harbour.Name}
	owner := metav1.NewControllerRef(harbour, harbours.WithKind("Harbour"))
	piers := applyappsv1.Deployment(harbour.Name, harbour.Namespace).
		WithOwnerReferences(applymetav1.OwnerReference().WithAPIVersion(owner.APIVersion).WithKind(owner.Kind).WithName(owner.Name).
			WithUID(owner.UID).WithController(true).WithBlockOwnerDeletion(true)).
		WithSpec(applyappsv1.DeploymentSpec().WithReplicas(harbour.Spec.Piers).
			WithSelector(applymetav1.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(applycorev1.PodTemplateSpec().WithLabels(labels).
				WithSpec(applycorev1.PodSpec().WithContainers(applycorev1.Container().WithName("pier").WithImage("nginx")))))
	return m.Apply(ctx, piers, client.FieldOwner(operatorName), client.ForceOwnership)
}

// report writes the status, and an event when the harbour opens.
func (m *harbourMaster) report(ctx context.Context, harbour *Harbour) error {
	before := clone(harbour)
	harbour.Status.Piers = harbour.Spec.Piers
	if !meta.SetStatusCondition(&harbour.Status.Conditions, metav1.Condition{
		Type: "Open", Status: metav1.ConditionTrue, Reason: "Built", Message: "all piers are built", ObservedGeneration: harbour.Generation,
	}) {
		return nil
	}
	if err := m.Status().Patch(ctx, harbour, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	m.events.Eventf(harbour, nil, corev1.EventTypeNormal, "Open", "Report", "%d piers", harbour.Spec.Piers)
	return nil
}

// close does what has to be done before the object may go: it notes it in a ledger that outlives the harbour.
func (m *harbourMaster) close(ctx context.Context, harbour *Harbour) error {
	ledger := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: harbour.Namespace, Name: "ledger"}}
	if _, err := controllerutil.CreateOrPatch(ctx, m.Client, ledger, func() error {
		ledger.Data = map[string]string{harbour.Name: "closed"}
		return nil
	}); err != nil {
		return err
	}
	before := clone(harbour)
	controllerutil.RemoveFinalizer(harbour, harbourFinalizer)
	return m.Patch(ctx, harbour, client.MergeFrom(before))
}

// runOperator defines the kind and runs the operator, elected, until the test ends. The client reads from the server.
func (s *server) runOperator(t *testing.T, space string) client.Client {
	t.Helper()
	ctrl.SetLogger(klog.Background())
	definitions, err := apiextensions.NewForConfig(s.config(t))
	if err != nil {
		t.Fatal(err)
	}
	definition, err := definitions.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), harbourDefinition(), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := definitions.ApiextensionsV1().CustomResourceDefinitions().Delete(context.Background(), definition.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	kinds := runtime.NewScheme()
	if err := scheme.AddToScheme(kinds); err != nil {
		t.Fatal(err)
	}
	addHarbours(kinds)
	direct, err := client.New(s.config(t), client.Options{Scheme: kinds})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return direct.List(t.Context(), &HarbourList{}) }) // The kind is served.

	manager, err := ctrl.NewManager(s.config(t), ctrl.Options{
		Scheme: kinds, Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{space: {}}},
		LeaderElection: true, LeaderElectionID: operatorName, LeaderElectionNamespace: space, LeaderElectionReleaseOnCancel: true,
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: new(true)}, // The test may run more than once in a process.
	})
	if err != nil {
		t.Fatal(err)
	}
	master := &harbourMaster{Client: manager.GetClient(), events: manager.GetEventRecorder(operatorName)}
	if err := ctrl.NewControllerManagedBy(manager).For(&Harbour{}).Owns(&corev1.ConfigMap{}).Owns(&appsv1.Deployment{}, builder.OnlyMetadata).Complete(master); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := manager.Start(ctx); err != nil {
			t.Errorf("the operator ended with %v", err)
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	return direct
}

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
	eventually(t, func() error { return opened(t.Context(), c, space) })

	if err := c.Delete(t.Context(), harbour, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return closed(t.Context(), c, key) })
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
