package clients

import (
	"context"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

// testDynamic makes an object of which it knows no more than a short name.
func testDynamic(t *testing.T, s *server) {
	space := s.space(t)
	cached := memory.NewMemCacheClient(s.client(t).Discovery())
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil)
	gvk, err := mapper.KindFor(schema.GroupVersionResource{Resource: "deploy"})
	if err != nil {
		t.Fatal(err)
	}
	mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		t.Fatal(err)
	}
	if mapping.Resource != appsv1.SchemeGroupVersion.WithResource("deployments") || mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		t.Fatalf("the short name deploy is mapped to %v", mapping)
	}
	client, err := dynamic.NewForConfig(s.json(t))
	if err != nil {
		t.Fatal(err)
	}
	boats := client.Resource(mapping.Resource).Namespace(space)
	made, err := boats.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": gvk.Kind, "metadata": map[string]any{"name": "boat"},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"app": "boat"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": "boat"}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "hull", "image": "nginx"}}},
			},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if replicas, _, _ := unstructured.NestedInt64(made.Object, "spec", "replicas"); replicas != 1 {
		t.Errorf("the default of spec.replicas is %d", replicas)
	}
	eventually(t, func() error { // The controllers work.
		sets, err := client.Resource(appsv1.SchemeGroupVersion.WithResource("replicasets")).Namespace(space).List(t.Context(), metav1.ListOptions{})
		if err == nil && (len(sets.Items) != 1 || !metav1.IsControlledBy(&sets.Items[0], made)) {
			err = fmt.Errorf("the deployment's replica sets are %v", sets.Items)
		}
		return err
	})

	lists, err := cached.ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	listable := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "watch"}}, lists)
	resources, err := discovery.GroupVersionResources(listable)
	if err != nil {
		t.Fatal(err)
	}
	if len(resources) < 30 {
		t.Errorf("discovery tells of %d resources that can be listed and watched", len(resources))
	}
	for resource := range resources {
		if _, err := client.Resource(resource).List(t.Context(), metav1.ListOptions{Limit: 1}); err != nil {
			t.Errorf("list %v, of which discovery tells: %v", resource, err)
		}
	}
}

// testMetadata reads and changes objects without their contents.
func testMetadata(t *testing.T, s *server) {
	space := s.space(t)
	secrets := s.client(t).CoreV1().Secrets(space)
	if _, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "chart", Labels: map[string]string{"sea": "baltic"}},
		StringData: map[string]string{"treasure": "here"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client, err := metadata.NewForConfig(s.config(t))
	if err != nil {
		t.Fatal(err)
	}
	partial := client.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(space)
	list, err := partial.List(t.Context(), metav1.ListOptions{LabelSelector: "sea=baltic"})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].Name != "chart" || list.ResourceVersion == "" {
		t.Errorf("the list of metadata is %v", list)
	}
	watcher, err := partial.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	patch := []byte(`{"metadata":{"annotations":{"seen":"yes"}}}`)
	if _, err := partial.Patch(t.Context(), "chart", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	event := next(t, watcher)
	seen, ok := event.Object.(*metav1.PartialObjectMetadata)
	if !ok || event.Type != watch.Modified || seen.Name != "chart" || seen.Annotations["seen"] != "yes" {
		t.Errorf("the watch of metadata tells %v", event)
	}
	if err := partial.Delete(t.Context(), "chart", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// testScale scales a Deployment by the client that autoscalers use.
func testScale(t *testing.T, s *server) {
	space := s.space(t)
	client := s.client(t)
	if _, err := client.AppsV1().Deployments(space).Create(t.Context(), deployment("fleet", 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cached := memory.NewMemCacheClient(client.Discovery())
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	scales, err := scale.NewForConfig(s.json(t), mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(cached))
	if err != nil {
		t.Fatal(err)
	}
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	var selector string
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error { // The Deployment's controller writes to the same object.
		fleet, err := scales.Scales(space).Get(t.Context(), deployments, "fleet", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if fleet.Spec.Replicas != 1 {
			t.Errorf("the scale is %v", fleet)
		}
		selector = fleet.Status.Selector
		fleet.Spec.Replicas = 3
		_, err = scales.Scales(space).Update(t.Context(), deployments, fleet, metav1.UpdateOptions{})
		return err
	})
	if err != nil || selector != "app=fleet" {
		t.Fatalf("scale by update: %v; the selector is %q", err, selector)
	}
	patch := []byte(`{"spec":{"replicas":4}}`)
	if _, err := scales.Scales(space).Patch(t.Context(), deployments.WithVersion("v1"), "fleet", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // The Deployment is scaled, and so are the pods.
		pods, err := client.CoreV1().Pods(space).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
		if err == nil && len(pods.Items) != 4 {
			err = fmt.Errorf("there are %d pods, want 4", len(pods.Items))
		}
		return err
	})
}

// testPager lists 1200 objects in chunks of 500, while they change.
func testPager(t *testing.T, s *server) {
	const count = 1200
	space := s.space(t)
	maps := s.client(t).CoreV1().ConfigMaps(space)
	for i := range count {
		buoy := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("buoy-%04d", i), Labels: map[string]string{"is": "buoy"}}}
		if _, err := maps.Create(t.Context(), buoy, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	chunks := 0
	pages := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		page, err := maps.List(ctx, opts)
		if err != nil {
			return nil, err
		}
		chunks++
		// What comes later in the list goes, and there is more that was not there.
		if err := maps.Delete(ctx, fmt.Sprintf("buoy-%04d", count-chunks), metav1.DeleteOptions{}); err != nil {
			return nil, err
		}
		late := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("buoy-%04d-late", count-chunks), Labels: map[string]string{"is": "buoy"}}}
		_, err = maps.Create(ctx, late, metav1.CreateOptions{})
		return page, err
	})
	pages.PageSize = 500
	pages.FullListIfExpired = false
	var names []string
	err := pages.EachListItem(t.Context(), metav1.ListOptions{LabelSelector: "is=buoy"}, func(obj runtime.Object) error {
		names = append(names, obj.(*corev1.ConfigMap).Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if chunks != 3 || len(names) != count || !slices.IsSorted(names) || names[count-1] != fmt.Sprintf("buoy-%04d", count-1) {
		t.Errorf("%d objects came in %d chunks, the last is %s; want the %d that were there, in 3", len(names), chunks, names[len(names)-1], count)
	}
}

// deployment is one of pods that need a node, which the server of these tests has not.
func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "nginx"}}},
			},
		},
	}
}
