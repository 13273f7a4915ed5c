package controller

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/apiserver"
	"skiff/pki"
	"skiff/store/bolt"
)

// These tests run all controllers against a real API server on a real store. There is no agent: pods that are not on a
// node go as soon as they are deleted.

// cluster is one skiff, whose parts end and begin together like those of a process.
type cluster struct {
	testing.TB
	ctx     context.Context
	client  kubernetes.Interface // Of the server that runs now.
	config  Config
	parts   []part
	running []func() // What ends each part.
}

// part starts one part and returns what ends it.
type part func(context.Context) (stop func())

const rootCA = "-----BEGIN CERTIFICATE-----\n"

// startCluster runs an API server and all controllers until the test ends.
func startCluster(t testing.TB) *cluster {
	t.Helper()
	key, err := pki.EnsureAccountKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sign, err := apiserver.SecretTokens(key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var now serverOfNow
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: "http://memory", QPS: -1, Transport: &now, WarningHandler: rest.NoWarnings{},
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{TB: t, ctx: ctx, client: client,
		config: Config{RootCA: []byte(rootCA), SecretToken: sign, ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/56")}}}
	t.Cleanup(func() { c.stop(); cancel() })
	file := filepath.Join(t.TempDir(), "state.db")
	c.add(func(ctx context.Context) func() { return c.runServer(ctx, &now, file, key) })
	c.add(c.runControllers)
	return c
}

// add starts one part more, which depends on those before it.
func (c *cluster) add(p part) {
	c.parts = append(c.parts, p)
	c.running = append(c.running, p(c.ctx))
}

func (c *cluster) stop() {
	for _, stop := range slices.Backward(c.running) {
		stop()
	}
	c.running = nil
}

// restart ends skiff, which loses all that is not in its store, and starts it again.
func (c *cluster) restart() {
	c.Helper()
	c.stop()
	for _, p := range c.parts {
		c.running = append(c.running, p(c.ctx))
	}
}

// serverOfNow makes requests of the server that runs now, as a client does with one address.
type serverOfNow struct {
	atomic.Pointer[http.RoundTripper]
}

func (s *serverOfNow) RoundTrip(req *http.Request) (*http.Response, error) {
	return (*s.Load()).RoundTrip(req)
}

// runServer runs the API server on the store in that file.
func (c *cluster) runServer(ctx context.Context, now *serverOfNow, file string, key *ecdsa.PrivateKey) (stop func()) {
	c.Helper()
	store, err := bolt.Open(file)
	c.must(err)
	ctx, cancel := context.WithCancel(ctx)
	server, err := apiserver.New(ctx, store, apiserver.Config{
		Issuer: "https://kubernetes.default.svc.cluster.local", AccountKey: key,
		Version:      version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.0"},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		NodePorts:    apiserver.PortRange{First: 30000, Last: 32767},
		Advertise:    netip.MustParseAddrPort("192.0.2.1:6443"),
	})
	c.must(err)
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	c.must(server.Bootstrap(ctx))
	transport := server.Transport(apiserver.User{Name: "test", Groups: []string{"system:masters"}})
	now.Store(&transport)
	return func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			c.Errorf("API server: %v", err)
		}
		if err := store.Close(); err != nil {
			c.Errorf("close the store: %v", err)
		}
	}
}

func (c *cluster) runControllers(ctx context.Context) (stop func()) {
	c.Helper()
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactory(c.client, 0)
	controllers, err := New(c.client, factory, c.config)
	if err != nil {
		c.Fatal(err)
	}
	factory.Start(ctx.Done())
	ended := make(chan error, 1)
	go func() { ended <- controllers.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) { // Before they had begun.
			c.Errorf("controllers: %v", err)
		}
		factory.Shutdown()
	}
}

// eventually waits until what returns "", and fails with the last thing that it returned instead.
func (c *cluster) eventually(promise string, what func() string) {
	c.Helper()
	wrong := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if wrong = what(); wrong == "" {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	c.Fatalf("%s: not within a minute: %s", promise, wrong)
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// podCount is how many pods there are.
func (c *cluster) podCount(namespace string, want int) func() string {
	return func() string {
		list, err := c.client.CoreV1().Pods(namespace).List(c.ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		if len(list.Items) != want {
			return fmt.Sprintf("%d pods, want %d", len(list.Items), want)
		}
		return ""
	}
}

func (c *cluster) createWeb(namespace string, size int32) {
	c.Helper()
	d := web(size)
	d.Namespace = namespace
	_, err := c.client.AppsV1().Deployments(namespace).Create(c.ctx, d, metav1.CreateOptions{})
	c.must(err)
	c.eventually("the deployment gets its pods", c.podCount(namespace, int(size)))
}

// TestLongName promises pods to a Deployment of the longest name that there may be.
func TestLongName(t *testing.T) {
	c := startCluster(t)
	d := web(1)
	d.Name = strings.Repeat("a", 253)
	_, err := c.client.AppsV1().Deployments("default").Create(c.ctx, d, metav1.CreateOptions{})
	c.must(err)
	c.eventually("the deployment gets its pod", c.podCount("default", 1))
}

// TestProgressDeadlineOfLaterRollouts promises that the second rollout, whose pods cannot be made, is called failed in its time.
func TestProgressDeadlineOfLaterRollouts(t *testing.T) {
	c := startCluster(t)
	c.runKubelets(2)
	deployments := c.client.AppsV1().Deployments("default")
	first := web(3)
	*first.Spec.ProgressDeadlineSeconds = 2
	_, err := deployments.Create(c.ctx, first, metav1.CreateOptions{})
	c.must(err)
	var d *appsv1.Deployment
	progress := func(status corev1.ConditionStatus, reason string) func() string {
		return func() string {
			var err error
			if d, err = deployments.Get(c.ctx, "web", metav1.GetOptions{}); err != nil {
				return err.Error()
			}
			if now := condition(d.Status.Conditions, appsv1.DeploymentProgressing); now == nil || now.Status != status || now.Reason != reason {
				return fmt.Sprintf("condition %v, want %s(%s)", now, status, reason)
			}
			return ""
		}
	}
	c.eventually("the first rollout ends", progress(corev1.ConditionTrue, "NewReplicaSetAvailable"))
	if d.Generation != 1 || d.Annotations[revisionAnnotation] != "1" {
		t.Errorf("generation %d and revision %q, want 1 and 1: nobody has changed the deployment", d.Generation, d.Annotations[revisionAnnotation])
	}
	change := []byte(`{"spec":{"template":{"spec":{"priorityClassName":"nope","containers":[{"name":"web","image":"nginx:2"}]}}}}`)
	_, err = deployments.Patch(c.ctx, "web", types.StrategicMergePatchType, change, metav1.PatchOptions{})
	c.must(err)
	c.eventually("the second rollout fails", progress(corev1.ConditionFalse, "ProgressDeadlineExceeded"))
	if d.Generation != 2 {
		t.Errorf("generation %d after one change, want 2", d.Generation)
	}
}

func gonePlease(err error) string {
	if apierrors.IsNotFound(err) {
		return ""
	}
	return fmt.Sprintf("it is there: %v", err)
}

// TestFurnished promises what each namespace has, and that it comes back.
func TestFurnished(t *testing.T) {
	c := startCluster(t)
	_, err := c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	c.must(err)
	furnished := func() string {
		if _, err := c.client.CoreV1().ServiceAccounts("team").Get(c.ctx, "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		ca, err := c.client.CoreV1().ConfigMaps("team").Get(c.ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if ca.Data["ca.crt"] != rootCA || len(ca.Data) != 1 {
			return fmt.Sprintf("kube-root-ca.crt has %q", ca.Data)
		}
		return ""
	}
	c.eventually("a new namespace is furnished", furnished)
	c.must(c.client.CoreV1().ServiceAccounts("team").Delete(c.ctx, "default", metav1.DeleteOptions{}))
	c.must(c.client.CoreV1().ConfigMaps("team").Delete(c.ctx, "kube-root-ca.crt", metav1.DeleteOptions{}))
	c.eventually("what is deleted comes back", furnished)
	spoilt := []byte(`{"data":{"ca.crt":"mine","more":"x"}}`)
	_, err = c.client.CoreV1().ConfigMaps("team").Patch(c.ctx, "kube-root-ca.crt", types.MergePatchType, spoilt, metav1.PatchOptions{})
	c.must(err)
	c.eventually("what is spoilt is put right", furnished)
}

// TestNamespaceDeletion promises that all goes with a namespace, and then the namespace itself.
func TestNamespaceDeletion(t *testing.T) {
	c := startCluster(t)
	_, err := c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	c.must(err)
	c.createWeb("team", 3)
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Namespace: "team", Finalizers: []string{"example.com/keep"}}}
	_, err = c.client.CoreV1().ConfigMaps("team").Create(c.ctx, held, metav1.CreateOptions{})
	c.must(err)
	c.must(c.client.CoreV1().Namespaces().Delete(c.ctx, "team", metav1.DeleteOptions{}))
	c.eventually("its conditions say what remains", func() string {
		ns, err := c.client.CoreV1().Namespaces().Get(c.ctx, "team", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		said := ""
		for _, condition := range ns.Status.Conditions {
			if condition.Status == corev1.ConditionTrue {
				said += condition.Reason + ": " + condition.Message + "\n"
			}
		}
		want := "SomeResourcesRemain: Some resources are remaining: configmaps. has 1 resource instances\n" +
			"SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances\n"
		if said != want || ns.Status.Phase != corev1.NamespaceTerminating {
			return fmt.Sprintf("phase %s, conditions %q", ns.Status.Phase, said)
		}
		return ""
	})
	_, err = c.client.CoreV1().ConfigMaps("team").Patch(c.ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("the namespace goes", func() string {
		_, err := c.client.CoreV1().Namespaces().Get(c.ctx, "team", metav1.GetOptions{})
		return gonePlease(err)
	})
	c.eventually("the pods are gone", c.podCount("team", 0))
}

// TestNamespaceDeletionPodsFirst promises that what a pod may need stays as long as the pod does.
func TestNamespaceDeletionPodsFirst(t *testing.T) {
	c := startCluster(t)
	_, err := c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	c.must(err)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "team", Finalizers: []string{"example.com/keep"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}}}
	_, err = c.client.CoreV1().Pods("team").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "config", Namespace: "team"}}
	_, err = c.client.CoreV1().ConfigMaps("team").Create(c.ctx, config, metav1.CreateOptions{})
	c.must(err)
	c.must(c.client.CoreV1().Namespaces().Delete(c.ctx, "team", metav1.DeleteOptions{}))
	c.eventually("its conditions name the pod", func() string {
		ns, err := c.client.CoreV1().Namespaces().Get(c.ctx, "team", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, condition := range ns.Status.Conditions {
			if condition.Type == corev1.NamespaceContentRemaining && strings.Contains(condition.Message, "pods. has 1 resource instances") {
				return ""
			}
		}
		return fmt.Sprintf("conditions %+v", ns.Status.Conditions)
	})
	if _, err := c.client.CoreV1().ConfigMaps("team").Get(c.ctx, "config", metav1.GetOptions{}); err != nil {
		t.Errorf("while the pod is there, reading its ConfigMap: %v", err)
	}
	_, err = c.client.CoreV1().Pods("team").Patch(c.ctx, "web", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("the namespace goes", func() string {
		_, err := c.client.CoreV1().Namespaces().Get(c.ctx, "team", metav1.GetOptions{})
		return gonePlease(err)
	})
}

// TestForegroundInCircle promises that objects that own each other in a circle do not wait for each other.
func TestForegroundInCircle(t *testing.T) {
	c := startCluster(t)
	maps := c.client.CoreV1().ConfigMaps("default")
	names := []string{"a", "b", "c"}
	var made []*corev1.ConfigMap
	for _, name := range names {
		obj, err := maps.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		c.must(err)
		made = append(made, obj)
	}
	for i, obj := range made {
		owner := made[(i+2)%3]
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":%q,"uid":%q,"blockOwnerDeletion":true}]}}`, owner.Name, owner.UID)
		_, err := maps.Patch(c.ctx, obj.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		c.must(err)
	}
	foreground := metav1.DeletePropagationForeground
	c.must(maps.Delete(c.ctx, "a", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	c.eventually("all of them go", func() string {
		for _, name := range names {
			if _, err := maps.Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("%s is there, or %v", name, err)
			}
		}
		return ""
	})
}

// TestPropagation promises what becomes of a Deployment's dependents under each policy.
func TestPropagation(t *testing.T) {
	c := startCluster(t)
	deployments, sets := c.client.AppsV1().Deployments("default"), c.client.AppsV1().ReplicaSets("default")
	remove := func(policy metav1.DeletionPropagation) {
		t.Helper()
		c.must(deployments.Delete(c.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &policy}))
		c.eventually(fmt.Sprintf("%s: the deployment goes", policy), func() string {
			_, err := deployments.Get(c.ctx, "web", metav1.GetOptions{})
			return gonePlease(err)
		})
	}
	setCount := func(want int) func() string {
		return func() string {
			list, err := sets.List(c.ctx, metav1.ListOptions{})
			if err != nil || len(list.Items) != want {
				return fmt.Sprintf("%d replica sets, want %d; error %v", len(list.Items), want, err)
			}
			return ""
		}
	}

	c.createWeb("default", 2)
	remove(metav1.DeletePropagationForeground)
	if wrong := setCount(0)() + c.podCount("default", 0)(); wrong != "" {
		t.Errorf("Foreground: the deployment is gone, but %s", wrong)
	}

	c.createWeb("default", 2)
	remove(metav1.DeletePropagationBackground)
	c.eventually("Background: the replica set goes", setCount(0))
	c.eventually("Background: the pods go", c.podCount("default", 0))

	c.createWeb("default", 2)
	remove(metav1.DeletePropagationOrphan)
	list, err := sets.List(c.ctx, metav1.ListOptions{})
	c.must(err)
	if len(list.Items) != 1 || len(list.Items[0].OwnerReferences) != 0 {
		t.Fatalf("Orphan: replica sets %v, want one without owner", list.Items)
	}
	c.createWeb("default", 2)
	c.eventually("a new deployment adopts the orphan", func() string {
		list, err := sets.List(c.ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || len(list.Items[0].OwnerReferences) != 1 {
			return fmt.Sprintf("replica sets %v, error %v", list.Items, err)
		}
		return ""
	})
}

// TestAbsentOwner promises that an object goes whose owner never was, or was another of the name, and that one stays
// that has an owner left or an owner of a kind that nobody knows.
func TestAbsentOwner(t *testing.T) {
	c := startCluster(t)
	maps := c.client.CoreV1().ConfigMaps("default")
	create := func(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
		t.Helper()
		made, err := maps.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}, metav1.CreateOptions{})
		c.must(err)
		return made
	}
	ref := func(kind, name string, uid types.UID) metav1.OwnerReference {
		return metav1.OwnerReference{APIVersion: "v1", Kind: kind, Name: name, UID: uid}
	}
	owner := create("owner")
	strange := ref("Widget", "w", "3")
	strange.APIVersion = "example.com/v1"
	create("stranger", strange)
	// Nothing says in which namespace the owner of a cluster-wide object would be.
	_, err := c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "wide", OwnerReferences: []metav1.OwnerReference{ref("ConfigMap", "owner", owner.UID)}}}, metav1.CreateOptions{})
	c.must(err)
	create("never", ref("ConfigMap", "never-was", "1"))
	create("other", ref("ConfigMap", "owner", "2"))
	create("half", ref("ConfigMap", "never-was", "1"), ref("ConfigMap", "owner", owner.UID))
	for _, name := range []string{"never", "other"} {
		c.eventually(name+" goes", func() string {
			_, err := maps.Get(c.ctx, name, metav1.GetOptions{})
			return gonePlease(err)
		})
	}
	c.eventually("half keeps the owner that is there", func() string {
		half, err := maps.Get(c.ctx, "half", metav1.GetOptions{})
		if err != nil || len(half.OwnerReferences) != 1 || half.OwnerReferences[0].Name != "owner" {
			return fmt.Sprintf("%v, error %v", half, err)
		}
		return ""
	})
	c.must(maps.Delete(c.ctx, "owner", metav1.DeleteOptions{}))
	c.eventually("half goes with its last owner", func() string {
		_, err := maps.Get(c.ctx, "half", metav1.GetOptions{})
		return gonePlease(err)
	})
	if _, err := maps.Get(c.ctx, "stranger", metav1.GetOptions{}); err != nil {
		t.Errorf("the object of an owner of unknown kind: %v, want it to stay", err)
	}
	if wide, err := c.client.CoreV1().Namespaces().Get(c.ctx, "wide", metav1.GetOptions{}); err != nil || wide.DeletionTimestamp != nil {
		t.Errorf("the namespace of an owner in a namespace: %v, error %v; want it to stay", wide, err)
	}
}

// TestNodeRanges promises each node ranges of its own, one of each family.
func TestNodeRanges(t *testing.T) {
	c := startCluster(t)
	seen := map[string]string{}
	for _, name := range strings.Fields("a b c") {
		_, err := c.client.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		c.must(err)
	}
	for _, name := range strings.Fields("a b c") {
		c.eventually("node "+name+" gets a range", func() string {
			node, err := c.client.CoreV1().Nodes().Get(c.ctx, name, metav1.GetOptions{})
			if err != nil || len(node.Spec.PodCIDRs) != 2 || node.Spec.PodCIDR != node.Spec.PodCIDRs[0] {
				return fmt.Sprintf("podCIDR is %q, podCIDRs are %q; error %v", node.Spec.PodCIDR, node.Spec.PodCIDRs, err)
			}
			seen[strings.Join(node.Spec.PodCIDRs, " ")] = name
			return ""
		})
	}
	want := []string{"10.42.0.0/24 fd00:42::/64", "10.42.1.0/24 fd00:42:0:1::/64", "10.42.2.0/24 fd00:42:0:2::/64"}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("ranges %q, want the first three: %q", got, want)
	}
}
