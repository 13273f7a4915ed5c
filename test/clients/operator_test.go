package clients

import (
	"context"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
