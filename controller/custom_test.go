package controller

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	crdPath   = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	boatsPath = "/apis/sea.example.com/v1/namespaces/default/boats"
)

// raw makes a request that has no typed client, and returns its answer's UID.
func (c *cluster) raw(method, path, body string) string {
	c.Helper()
	request := c.client.Discovery().RESTClient().Verb(method).AbsPath(path)
	if body != "" {
		request = request.SetHeader("Content-Type", "application/json").Body([]byte(body))
	}
	data, err := request.DoRaw(c.ctx)
	if err != nil {
		c.Fatalf("%s %s: %v", method, path, err)
	}
	_, uid, _ := strings.Cut(string(data), `"uid":"`)
	uid, _, _ = strings.Cut(uid, `"`)
	return uid
}

// gone waits until there is nothing at a path.
func (c *cluster) gone(path string) {
	c.Helper()
	c.eventually(path+" is gone", func() string {
		_, err := c.client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(c.ctx)
		if apierrors.IsNotFound(err) {
			return ""
		}
		return "it is there"
	})
}

func (c *cluster) defineBoats() {
	c.Helper()
	c.raw("POST", crdPath, `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"boats.sea.example.com"},"spec":{
		"group":"sea.example.com","scope":"Namespaced","names":{"plural":"boats","kind":"Boat"},"versions":[{"name":"v1","served":true,"storage":true,
		"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`)
	c.eventually("boats are served", func() string {
		if _, err := c.client.Discovery().RESTClient().Get().AbsPath(boatsPath).DoRaw(c.ctx); err != nil {
			return err.Error()
		}
		return ""
	})
}

func ownedBoat(name, ownerVersion, ownerKind, owner, uid string) string {
	owners := ""
	if owner != "" {
		owners = `,"ownerReferences":[{"apiVersion":"` + ownerVersion + `","kind":"` + ownerKind + `","name":"` + owner + `","uid":"` + uid + `"}]`
	}
	return `{"apiVersion":"sea.example.com/v1","kind":"Boat","metadata":{"name":"` + name + `"` + owners + `}}`
}

// Objects of kinds that are defined while the controllers run own others, and are owned.
func TestRealCustomResourcesOwn(t *testing.T) {
	c := startCluster(t)
	c.defineBoats()
	fleet, err := c.client.CoreV1().ConfigMaps("default").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "fleet"}}, metav1.CreateOptions{})
	c.must(err)
	boat := c.raw("POST", boatsPath, ownedBoat("one", "v1", "ConfigMap", "fleet", string(fleet.UID)))
	c.raw("POST", boatsPath, ownedBoat("dinghy", "sea.example.com/v1", "Boat", "one", boat))
	_, err = c.client.CoreV1().ConfigMaps("default").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cargo", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "sea.example.com/v1", Kind: "Boat", Name: "one", UID: types.UID(boat)},
	}}}, metav1.CreateOptions{})
	c.must(err)
	c.must(c.client.CoreV1().ConfigMaps("default").Delete(c.ctx, "fleet", metav1.DeleteOptions{}))
	c.gone(boatsPath + "/one")
	c.gone(boatsPath + "/dinghy")
	c.gone("/api/v1/namespaces/default/configmaps/cargo")
}

// Who deletes an owner in the foreground sees it go last.
func TestRealCustomResourceForeground(t *testing.T) {
	c := startCluster(t)
	c.defineBoats()
	boat := c.raw("POST", boatsPath, ownedBoat("one", "", "", "", ""))
	c.raw("POST", boatsPath, strings.Replace(ownedBoat("dinghy", "sea.example.com/v1", "Boat", "one", boat), `"uid"`, `"blockOwnerDeletion":true,"uid"`, 1))
	c.raw("DELETE", boatsPath+"/one", `{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Foreground"}`)
	c.gone(boatsPath + "/one")
	c.gone(boatsPath + "/dinghy")
}

// A namespace that goes takes its custom resources along, and a definition that goes is no longer watched.
func TestRealCustomResourcesGo(t *testing.T) {
	c := startCluster(t)
	c.defineBoats()
	_, err := c.client.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bay"}}, metav1.CreateOptions{})
	c.must(err)
	c.raw("POST", strings.Replace(boatsPath, "default", "bay", 1), ownedBoat("one", "", "", "", ""))
	c.must(c.client.CoreV1().Namespaces().Delete(c.ctx, "bay", metav1.DeleteOptions{}))
	c.gone("/api/v1/namespaces/bay")
	c.raw("POST", boatsPath, ownedBoat("two", "", "", "", ""))
	c.raw("DELETE", crdPath+"/boats.sea.example.com", `{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Foreground"}`)
	c.gone(crdPath + "/boats.sea.example.com")
	c.defineBoats() // And is watched again.
	fleet, err := c.client.CoreV1().ConfigMaps("default").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "fleet"}}, metav1.CreateOptions{})
	c.must(err)
	c.raw("POST", boatsPath, ownedBoat("three", "v1", "ConfigMap", "fleet", string(fleet.UID)))
	c.must(c.client.CoreV1().ConfigMaps("default").Delete(c.ctx, "fleet", metav1.DeleteOptions{}))
	c.gone(boatsPath + "/three")
}
