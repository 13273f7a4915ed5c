package clients

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	release "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// helm is what Helm's commands share: a cluster and a namespace.
type helm struct {
	t       *testing.T
	space   string
	config  *action.Configuration
	client  kubernetes.Interface
	dynamic dynamic.Interface
}

func (s *server) helm(t *testing.T) *helm {
	t.Helper()
	space, cacheDir, kubeconfig := s.space(t), t.TempDir(), s.kubeconfig()
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig, flags.Namespace, flags.CacheDir = &kubeconfig, &space, &cacheDir
	h := &helm{t: t, space: space, client: s.client(t)}
	h.config = action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	if err := h.config.Init(flags, space, "secret"); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.dynamic, err = dynamic.NewForConfig(s.json(t)); err != nil {
		t.Fatal(err)
	}
	return h
}

// lighthouse is the chart in testdata.
func lighthouse(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir("testdata/chart")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testChart leads a release through its life, as Helm 4 does it and as Helm 3 did: by server-side apply, and by three-way
// merges that the client makes.
func testChart(t *testing.T, s *server) {
	t.Run("by server-side apply", func(t *testing.T) { testRelease(t, s.helm(t), true) })
	t.Run("by three-way merge", func(t *testing.T) { testRelease(t, s.helm(t), false) })
	t.Run("dry", func(t *testing.T) { testDryRun(t, s.helm(t)) })
	t.Run("of a megabyte", func(t *testing.T) { testLargeRelease(t, s.helm(t)) })
}

func testRelease(t *testing.T, h *helm, serverSide bool) {
	all := []string{"buoys/web", "configmaps/web", "deployments/web", "horizontalpodautoscalers/web", "ingresses/web",
		"poddisruptionbudgets/web", "secrets/web", "serviceaccounts/web", "services/web"}
	withoutIngress := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == "ingresses/web" })

	h.putSignal("green")
	install := action.NewInstall(h.config)
	install.ReleaseName, install.Namespace, install.ServerSideApply = "web", h.space, serverSide
	install.WaitStrategy, install.Timeout = kube.StatusWatcherStrategy, patience
	if _, err := install.Run(lighthouse(t), nil); err != nil {
		t.Fatal(err)
	}
	h.has(all, "ahoy", "green", "1")

	h.putSignal("red")
	upgrade := action.NewUpgrade(h.config)
	upgrade.Namespace, upgrade.WaitStrategy, upgrade.Timeout = h.space, kube.StatusWatcherStrategy, patience
	if _, err := upgrade.Run("web", lighthouse(t), map[string]any{"greeting": "hej", "ingress": false}); err != nil {
		t.Fatal(err)
	}
	h.has(withoutIngress, "hej", "red", "2")

	rollback := action.NewRollback(h.config)
	rollback.Version, rollback.WaitStrategy, rollback.Timeout = 1, kube.StatusWatcherStrategy, patience
	if err := rollback.Run("web"); err != nil {
		t.Fatal(err)
	}
	h.has(all, "ahoy", "green", "1")
	h.history("1 superseded", "2 superseded", "3 deployed")

	uninstall := action.NewUninstall(h.config)
	uninstall.WaitStrategy, uninstall.Timeout = kube.StatusWatcherStrategy, patience
	if _, err := uninstall.Run("web"); err != nil {
		t.Fatal(err)
	}
	if left := h.objects(); len(left) > 0 {
		t.Errorf("after the release is uninstalled there are still %v", left)
	}
	h.history()
}

// testDryRun renders a chart with what the server says, and leaves nothing behind.
func testDryRun(t *testing.T, h *helm) {
	h.putSignal("white")
	install := action.NewInstall(h.config)
	install.ReleaseName, install.Namespace, install.DryRunStrategy = "web", h.space, action.DryRunServer
	install.WaitStrategy = kube.HookOnlyStrategy
	made, err := install.Run(lighthouse(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"signal: white", "kind: HorizontalPodAutoscaler"} {
		if manifest := made.(*release.Release).Manifest; !strings.Contains(manifest, want) {
			t.Errorf("the manifest lacks %q:\n%s", want, manifest)
		}
	}
	if left := h.objects(); len(left) > 0 {
		t.Errorf("the dry run has made %v", left)
	}
	h.history()
}

// testLargeRelease stores a release that just fits into a Secret, and one that does not.
func testLargeRelease(t *testing.T, h *helm) {
	install := func(size int) error {
		c := lighthouse(t)
		noise := make([]byte, size) // Cannot be compressed.
		_, _ = rand.Read(noise)
		c.Files = append(c.Files, &common.File{Name: "noise", Data: noise})
		install := action.NewInstall(h.config)
		install.ReleaseName, install.Namespace, install.WaitStrategy = fmt.Sprintf("noise-%d", size), h.space, kube.HookOnlyStrategy
		_, err := install.Run(c, nil)
		return err
	}
	if err := install(700_000); err != nil {
		t.Errorf("install a large chart: %v", err)
	}
	if err := install(900_000); err == nil || !strings.Contains(err.Error(), "data: Too long: may not be more than 1048576 bytes") {
		t.Errorf("a chart too large is answered with %v", err)
	}
}

// putSignal makes or changes what the chart looks up.
func (h *helm) putSignal(flag string) {
	h.t.Helper()
	maps := h.client.CoreV1().ConfigMaps(h.space)
	signal := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "signal"}, Data: map[string]string{"flag": flag}}
	_, err := maps.Update(h.t.Context(), signal, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(h.t.Context(), signal, metav1.CreateOptions{})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// has looks at what there is of a release: which objects, what the values and the lookup made of them, and which revision's hook ran.
func (h *helm) has(objects []string, greeting, signal, hook string) {
	h.t.Helper()
	if got := h.objects(); !slices.Equal(got, objects) {
		h.t.Errorf("there are\n%v, want\n%v", got, objects)
	}
	maps := h.client.CoreV1().ConfigMaps(h.space)
	web, err := maps.Get(h.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	secret, err := h.client.CoreV1().Secrets(h.space).Get(h.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	if web.Data["greeting"] != greeting || web.Data["signal"] != signal || string(secret.Data["password"]) != greeting {
		h.t.Errorf("the data is %v and %q, want %s and %s", web.Data, secret.Data, greeting, signal)
	}
	before, err := maps.Get(h.t.Context(), "web-before", metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	if before.Data["revision"] != hook {
		h.t.Errorf("the hook that ran before is of revision %v, want %s", before.Data, hook)
	}
	if _, err := maps.Get(h.t.Context(), "web-after", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		h.t.Errorf("the hook that ran after is still there (%v)", err)
	}
}

// objects are the names of all that Helm manages in the namespace, sorted.
func (h *helm) objects() (names []string) {
	h.t.Helper()
	for _, resource := range []schema.GroupVersionResource{
		{Group: "light.example.com", Version: "v1", Resource: "buoys"},
		{Version: "v1", Resource: "configmaps"},
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
		{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
		{Version: "v1", Resource: "secrets"},
		{Version: "v1", Resource: "serviceaccounts"},
		{Version: "v1", Resource: "services"},
	} {
		list, err := h.dynamic.Resource(resource).Namespace(h.space).List(h.t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=Helm"})
		if err != nil {
			h.t.Fatal(err)
		}
		for _, obj := range list.Items {
			names = append(names, resource.Resource+"/"+obj.GetName())
		}
	}
	return names
}

// history holds the release's revisions and their states against those given.
func (h *helm) history(want ...string) {
	h.t.Helper()
	var got []string
	revisions, err := action.NewHistory(h.config).Run("web")
	if err != nil && len(want) > 0 {
		h.t.Fatal(err)
	}
	for _, r := range revisions {
		revision := r.(*release.Release)
		got = append(got, fmt.Sprint(revision.Version, " ", revision.Info.Status))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		h.t.Errorf("the history is %q, want %q", got, want)
	}
}
