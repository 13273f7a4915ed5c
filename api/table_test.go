package api

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	const proxy = "Options:create,delete,get,patch,update "
	want := []string{
		"bindings Binding binding namespaced",
		"componentstatuses ComponentStatus componentstatus,cs cluster",
		"configmaps ConfigMap configmap,cm namespaced",
		"endpoints Endpoints endpoints,ep namespaced",
		"events Event event,ev namespaced",
		"limitranges LimitRange limitrange,limits namespaced",
		"namespaces Namespace namespace,ns cluster  finalize:Namespace:update status:Namespace:" + status,
		"nodes Node node,no cluster  proxy:NodeProxy" + proxy + "status:Node:" + status,
		"persistentvolumeclaims PersistentVolumeClaim persistentvolumeclaim,pvc namespaced  status:PersistentVolumeClaim:" + status,
		"persistentvolumes PersistentVolume persistentvolume,pv cluster  status:PersistentVolume:" + status,
		"pods Pod pod,po namespaced all attach:PodAttachOptions:create,get binding:Binding:create" +
			" ephemeralcontainers:Pod:" + status + " eviction:Eviction:create exec:PodExecOptions:create,get log:Pod:get portforward:PodPortForwardOptions:create,get proxy:PodProxy" + proxy + "resize:Pod:" + status + " status:Pod:" + status,
		"podtemplates PodTemplate podtemplate namespaced",
		"replicationcontrollers ReplicationController replicationcontroller,rc namespaced all scale:Scale:" + status +
			" status:ReplicationController:" + status,
		"resourcequotas ResourceQuota resourcequota,quota namespaced  status:ResourceQuota:" + status,
		"secrets Secret secret namespaced",
		"services Service service,svc namespaced all proxy:ServiceProxy" + proxy + "status:Service:" + status,
		"serviceaccounts ServiceAccount serviceaccount,sa namespaced  token:TokenRequest:create",
		"controllerrevisions.apps ControllerRevision controllerrevision namespaced",
		"daemonsets.apps DaemonSet daemonset,ds namespaced all status:DaemonSet:" + status,
		"deployments.apps Deployment deployment,deploy namespaced all scale:Scale:" + status + " status:Deployment:" + status,
		"replicasets.apps ReplicaSet replicaset,rs namespaced all scale:Scale:" + status + " status:ReplicaSet:" + status,
		"statefulsets.apps StatefulSet statefulset,sts namespaced all scale:Scale:" + status + " status:StatefulSet:" + status,
		"customresourcedefinitions.apiextensions.k8s.io CustomResourceDefinition customresourcedefinition,crd,crds cluster api-extensions status:CustomResourceDefinition:" + status,
		"selfsubjectreviews.authentication.k8s.io SelfSubjectReview selfsubjectreview cluster",
		"tokenreviews.authentication.k8s.io TokenReview tokenreview cluster",
		"localsubjectaccessreviews.authorization.k8s.io LocalSubjectAccessReview localsubjectaccessreview namespaced",
		"selfsubjectaccessreviews.authorization.k8s.io SelfSubjectAccessReview selfsubjectaccessreview cluster",
		"selfsubjectrulesreviews.authorization.k8s.io SelfSubjectRulesReview selfsubjectrulesreview cluster",
		"subjectaccessreviews.authorization.k8s.io SubjectAccessReview subjectaccessreview cluster",
		"horizontalpodautoscalers.autoscaling HorizontalPodAutoscaler horizontalpodautoscaler,hpa namespaced all" +
			" status:HorizontalPodAutoscaler:" + status,
		"horizontalpodautoscalers.autoscaling HorizontalPodAutoscaler horizontalpodautoscaler,hpa namespaced all" +
			" status:HorizontalPodAutoscaler:" + status,
		"cronjobs.batch CronJob cronjob,cj namespaced all status:CronJob:" + status,
		"jobs.batch Job job namespaced all status:Job:" + status,
		"certificatesigningrequests.certificates.k8s.io CertificateSigningRequest certificatesigningrequest,csr cluster " +
			" approval:CertificateSigningRequest:" + status + " status:CertificateSigningRequest:" + status,
		"leases.coordination.k8s.io Lease lease namespaced",
		"endpointslices.discovery.k8s.io EndpointSlice endpointslice namespaced",
		"events.events.k8s.io Event event,ev namespaced",
		"nodes.metrics.k8s.io NodeMetrics  cluster",
		"pods.metrics.k8s.io PodMetrics  namespaced",
		"ingressclasses.networking.k8s.io IngressClass ingressclass cluster",
		"ingresses.networking.k8s.io Ingress ingress,ing namespaced  status:Ingress:" + status,
		"ipaddresses.networking.k8s.io IPAddress ipaddress,ip cluster",
		"networkpolicies.networking.k8s.io NetworkPolicy networkpolicy,netpol namespaced",
		"servicecidrs.networking.k8s.io ServiceCIDR servicecidr cluster  status:ServiceCIDR:" + status,
		"runtimeclasses.node.k8s.io RuntimeClass runtimeclass cluster",
		"poddisruptionbudgets.policy PodDisruptionBudget poddisruptionbudget,pdb namespaced  status:PodDisruptionBudget:" + status,
		"clusterrolebindings.rbac.authorization.k8s.io ClusterRoleBinding clusterrolebinding cluster",
		"clusterroles.rbac.authorization.k8s.io ClusterRole clusterrole cluster",
		"rolebindings.rbac.authorization.k8s.io RoleBinding rolebinding namespaced",
		"roles.rbac.authorization.k8s.io Role role namespaced",
		"priorityclasses.scheduling.k8s.io PriorityClass priorityclass,pc cluster",
		"csidrivers.storage.k8s.io CSIDriver csidriver cluster",
		"csinodes.storage.k8s.io CSINode csinode cluster  status:CSINode:" + status,
		"csistoragecapacities.storage.k8s.io CSIStorageCapacity csistoragecapacity namespaced",
		"storageclasses.storage.k8s.io StorageClass storageclass,sc cluster",
		"volumeattachments.storage.k8s.io VolumeAttachment volumeattachment cluster  status:VolumeAttachment:" + status,
		"volumeattributesclasses.storage.k8s.io VolumeAttributesClass volumeattributesclass,vac cluster",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what discovery says (-want +got):\n%s", diff)
	}
	for _, r := range Table() {
		want := []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
		if r.Name == "namespaces" {
			want = slices.Delete(want, 2, 3)
		}
		if r.Review {
			want = want[:1]
		}
		if r.Live {
			want = []string{"get", "list"}
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
			if r.Review {
				if r.Row != nil || r.Columns != nil {
					t.Error("a review is not printed, but has a row or columns")
				}
				return
			}
			cells := r.Row(r.Stored().New())
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
	obj := r.Stored().New() // Which the rules of a view take too.
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
		pick[appsv1.StatefulSetUpdateStrategyType](rnd, "", "OnDelete", "RollingUpdate", "x"),
		pick[appsv1.DaemonSetUpdateStrategyType](rnd, "", "OnDelete", "RollingUpdate", "x"),
		pick[batchv1.CompletionMode](rnd, "Indexed", "NonIndexed", "x"),
		pick[corev1.LimitType](rnd, "Pod", "Container", "PersistentVolumeClaim", "x"),
		pick[corev1.ResourceQuotaScope](rnd, "BestEffort", "NotBestEffort", "PriorityClass", "x"),
		pick[autoscalingv2.MetricSourceType](rnd, "Resource", "Pods", "Object", "External", "ContainerResource", "x"),
		pick[certificatesv1.RequestConditionType](rnd, "Approved", "Denied", "Failed", "x"),
		func(r *runtime.RawExtension, _ randfill.Continue) { r.Raw = []byte(`{"a": 1}`) },
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
	if r.ValidateCreate != nil {
		r.ValidateCreate(obj)
	}
	if r.View != nil {
		_, _ = r.Store(r.Show(obj))
	}
	if r.ValidateUpdate != nil {
		r.ValidateUpdate(obj, old)
	}
	for _, s := range r.Subs {
		if s.Prepare != nil {
			s.Prepare(obj, old)
		}
		if s.Validate != nil {
			s.Validate(obj, old)
		}
	}
	if r.Fields != nil {
		r.Fields(obj)
	}
	if r.Row != nil {
		r.Row(obj)
	}
}

// What JudgesWanted says of a kind's validation is so.
func TestJudgesWanted(t *testing.T) {
	for _, r := range Table() {
		if !r.JudgesWanted {
			continue
		}
		t.Run(r.Kind, func(t *testing.T) {
			for seed := range uint64(50) {
				obj, other := random(r, 2*seed), random(r, 2*seed+1)
				m := obj.(metav1.Object)
				want := slices.Sorted(slices.Values(texts(r.Validate(obj)))) // Of maps they come in any order.
				name, annotations := m.GetName(), m.GetAnnotations()
				for _, part := range []string{"ObjectMeta", "Status"} {
					reflect.ValueOf(obj).Elem().FieldByName(part).Set(reflect.ValueOf(other).Elem().FieldByName(part))
				}
				m.SetName(name)
				m.SetAnnotations(annotations)
				got := slices.Sorted(slices.Values(texts(r.Validate(obj))))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("seed %d: it looks at other metadata, or at the status:\n%s", seed, diff)
				}
			}
		})
	}
}
