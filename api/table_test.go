package api

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/randfill"
)

func TestTable(t *testing.T) {
	var got []string
	for _, r := range Table() {
		names := strings.Join(append([]string{r.Singular}, r.ShortNames...), ",")
		subs := []string{}
		for _, s := range r.Subs {
			subs = append(subs, s.Name+":"+s.Kind+":"+strings.Join(s.Verbs, ","))
		}
		slices.Sort(subs)
		scope := "cluster"
		if r.Namespaced {
			scope = "namespaced"
		}
		got = append(got, strings.TrimSpace(strings.Join([]string{
			r.GroupResource().String(), r.Kind, names, scope, strings.Join(r.Categories, ","), strings.Join(subs, " "),
		}, " ")))
	}
	const status = "get,patch,update"
	want := []string{
		"configmaps ConfigMap configmap,cm namespaced",
		"endpoints Endpoints endpoints,ep namespaced",
		"events Event event,ev namespaced",
		"namespaces Namespace namespace,ns cluster  finalize:Namespace:update status:Namespace:" + status,
		"nodes Node node,no cluster  status:Node:" + status,
		"pods Pod pod,po namespaced all attach:PodAttachOptions:create,get binding:Binding:create" +
			" exec:PodExecOptions:create,get log:Pod:get portforward:PodPortForwardOptions:create,get status:Pod:" + status,
		"secrets Secret secret namespaced",
		"services Service service,svc namespaced all status:Service:" + status,
		"serviceaccounts ServiceAccount serviceaccount,sa namespaced",
		"deployments.apps Deployment deployment,deploy namespaced all scale:Scale:" + status + " status:Deployment:" + status,
		"replicasets.apps ReplicaSet replicaset,rs namespaced all scale:Scale:" + status + " status:ReplicaSet:" + status,
		"leases.coordination.k8s.io Lease lease namespaced",
		"endpointslices.discovery.k8s.io EndpointSlice endpointslice namespaced",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what discovery says (-want +got):\n%s", diff)
	}
	for _, r := range Table() {
		want := []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
		if r.Name == "namespaces" {
			want = slices.Delete(want, 2, 3)
		}
		if diff := cmp.Diff(want, r.Verbs); diff != "" {
			t.Errorf("verbs of %s (-want +got):\n%s", r.Name, diff)
		}
	}
}

// TestRowsFit holds that a row prints as many cells as it has columns, of the types that the columns say, and that
// every kind and every subresource's kind is one of the scheme's.
func TestRowsFit(t *testing.T) {
	for _, r := range Table() {
		t.Run(r.Kind, func(t *testing.T) {
			cells := r.Row(r.New())
			if len(cells) != len(r.Columns) {
				t.Fatalf("Row returned %d cells for %d columns: %v", len(cells), len(r.Columns), cells)
			}
			for i, c := range r.Columns {
				if c.Description == "" {
					t.Errorf("column %q has no description", c.Name)
				}
				if _, isNumber := cells[i].(int64); c.Type == "integer" && !isNumber {
					t.Errorf("column %q is an integer, but its cell is %#v", c.Name, cells[i])
				}
			}
			for _, s := range r.Subs {
				if got, ok := r.Sub(s.Name); !ok || got.Kind != s.Kind {
					t.Errorf("Sub(%q) = %v, %v", s.Name, got, ok)
				}
				gv := r.GroupVersion()
				if s.Group != "" {
					gv = schema.GroupVersion{Group: s.Group, Version: "v1"}
				}
				if !Scheme.Recognizes(gv.WithKind(s.Kind)) {
					t.Errorf("subresource %s: the scheme has no %s in %s", s.Name, s.Kind, gv)
				}
			}
		})
	}
}

// TestAnyObject gives every rule objects filled at random: no rule may panic, whatever a client sends, and what was
// defaulted once stays as it is.
func TestAnyObject(t *testing.T) {
	const rounds = 100
	for _, r := range Table() {
		t.Run(r.Kind, func(t *testing.T) {
			for seed := range uint64(rounds) {
				obj, old := random(r, 2*seed), random(r, 2*seed+1)
				again := obj.DeepCopyObject()
				if r.Default != nil {
					r.Default(again)
				}
				if diff := cmp.Diff(obj, again); diff != "" {
					t.Fatalf("seed %d: a second Default changed the object:\n%s", seed, diff)
				}
				exercise(r, obj, old)
			}
		})
	}
}

func random(r *Resource, seed uint64) runtime.Object {
	obj := r.New()
	rnd := rand.New(rand.NewPCG(seed, 0))
	fill := randfill.NewWithSeed(int64(rnd.Uint32())).NilChance(0.4).NumElements(0, 3).MaxDepth(12)
	// A random string is never one of the values that rules look for; these are, most of the time.
	fill.Funcs(
		pick[corev1.ServiceType](rnd, "", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "Cluste"),
		pick[corev1.ServiceAffinity](rnd, "", "None", "ClientIP", "x"),
		pick[corev1.ServiceExternalTrafficPolicy](rnd, "", "Local", "Cluster"),
		pick[corev1.IPFamily](rnd, "IPv4", "IPv6"),
		pick[corev1.SecretType](rnd, "", corev1.SecretTypeTLS, corev1.SecretTypeDockercfg, corev1.SecretTypeBasicAuth),
		pick[corev1.SeccompProfileType](rnd, "", "Localhost", "Unconfined"),
		pick[corev1.DNSPolicy](rnd, "", "None", "ClusterFirst"),
		pick[corev1.ContainerRestartPolicy](rnd, "Always", "Never"),
		pick[appsv1.DeploymentStrategyType](rnd, "", "Recreate", "RollingUpdate", "x"),
		pick[discoveryv1.AddressType](rnd, "", "IPv4", "IPv6", "FQDN"),
	)
	fill.Fill(obj)
	if r.Default != nil {
		r.Default(obj)
	}
	return obj
}

func pick[T any](rnd *rand.Rand, values ...T) func(*T, randfill.Continue) {
	return func(v *T, _ randfill.Continue) { *v = values[rnd.IntN(len(values))] }
}

func exercise(r *Resource, obj, old runtime.Object) {
	if r.PrepareCreate != nil {
		r.PrepareCreate(obj)
		r.PrepareCreate(old)
	}
	if r.PrepareUpdate != nil {
		r.PrepareUpdate(obj, old)
	}
	if r.Validate != nil {
		r.Validate(obj)
	}
	if r.ValidateUpdate != nil {
		r.ValidateUpdate(obj, old)
	}
	if r.Fields != nil {
		r.Fields(obj)
	}
	r.Row(obj)
}
