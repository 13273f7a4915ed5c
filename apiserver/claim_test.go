package apiserver

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"skiff/api"
	"skiff/store"
	"skiff/store/bolt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const addressesPath = "/apis/networking.k8s.io/v1/ipaddresses"

const serviceCIDRsPath = "/apis/networking.k8s.io/v1/servicecidrs"

// recorded are the keys of all records of addresses and node ports, less those of the Services that every cluster has.
func (s *running) recorded(t testing.TB) (keys []string) {
	t.Helper()
	found, _, err := s.readRecords(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for h := range found {
		if h.address != "10.43.0.1" && h.address != "10.43.0.10" {
			keys = append(keys, h.storeKey())
		}
	}
	slices.Sort(keys)
	return keys
}

func (s *running) expectRecords(t testing.TB, when string, want ...string) {
	t.Helper()
	if got := s.recorded(t); !slices.Equal(got, want) {
		t.Errorf("%s the records are %v, want %v", when, got, want)
	}
}

// What a Service has is on record for as long as it has it.
func TestServiceRecords(t *testing.T) {
	s := start(t)
	svc := s.createService(t, "a", `"type":"NodePort","clusterIP":"10.43.5.5"`)
	address, port := "ipaddresses.networking.k8s.io/10.43.5.5", fmt.Sprint("skiff/nodeports/", svc.Spec.Ports[0].NodePort)
	s.expectRecords(t, "after the creation", address, port)
	ip := parse[networkingv1.IPAddress](t, s.do(t, "GET", addressesPath+"/10.43.5.5", "").want(t, 200))
	if p := ip.Spec.ParentRef; p == nil || p.Resource != "services" || p.Namespace != "default" || p.Name != "a" || ip.Labels[networkingv1.LabelManagedBy] != api.AddressManager {
		t.Errorf("the IPAddress is %s, want one of service default/a", toJSON(t, ip))
	}
	s.do(t, "POST", servicesPath, serviceJSON("b", `"clusterIP":"10.43.5.6"`)).want(t, 201)
	s.do(t, "POST", servicesPath, serviceJSON("b", `"clusterIP":"10.43.5.7"`)).refused(t, 409, metav1.StatusReasonAlreadyExists)
	s.do(t, "POST", servicesPath+"?dryRun=All", serviceJSON("c", `"clusterIP":"10.43.5.8"`)).want(t, 201)
	s.do(t, "DELETE", servicesPath+"/b", "").want(t, 200)
	s.expectRecords(t, "after refused, dry and deleted ones", address, port)

	s.do(t, "PATCH", servicesPath+"/a", `{"spec":{"type":"ClusterIP"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
	s.expectRecords(t, "without node ports", address)
	s.do(t, "PATCH", servicesPath+"/a", `{"spec":{"type":"ExternalName","externalName":"example.com","clusterIP":null,"clusterIPs":null}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
	s.expectRecords(t, "without an address")
}

// An address that somebody has on record is not given to a Service, whoever it is.
func TestRecordedAddressIsTaken(t *testing.T) {
	s := start(t)
	s.do(t, "POST", addressesPath, `{"kind":"IPAddress","apiVersion":"networking.k8s.io/v1","metadata":{"name":"10.43.5.5"},
		"spec":{"parentRef":{"group":"gateway.networking.k8s.io","resource":"gateways","namespace":"default","name":"g"}}}`).want(t, 201)
	s.do(t, "POST", servicesPath, serviceJSON("a", `"clusterIP":"10.43.5.5"`)).refused(t, 422, metav1.StatusReasonInvalid, "provided IP is already allocated")
	s.expectRecords(t, "afterwards")
}

// A server that ends between the two writes leaves a record, which is removed when no such write can be under way.
func TestRepair(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	chosen := serviceJSON("a", `"type":"NodePort","clusterIP":"10.43.5.5"`) // Not by chance, which might take the ghost's.
	s.do(t, "POST", servicesPath, strings.Replace(chosen, `"port":80`, `"port":80,"nodePort":32002`, 1)).want(t, 201)
	const address, port = "ipaddresses.networking.k8s.io/10.43.5.5", "skiff/nodeports/32002"
	ghost := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ghost"}}
	leave := func() {
		t.Helper()
		for _, h := range []holding{{address: "10.43.5.6"}, {port: 32001}} {
			if _, err := s.record(t.Context(), h, ghost); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave()
	left := []string{address, "ipaddresses.networking.k8s.io/10.43.5.6", "skiff/nodeports/32001", port}
	slices.Sort(left)
	suspects, err := s.repairOnce(t.Context(), map[string]uint64{})
	if err != nil || len(suspects) != 2 {
		t.Fatalf("the first round suspects %v, error %v; want the two records of the ghost", suspects, err)
	}
	s.expectRecords(t, "after the first round", left...)
	if suspects, err = s.repairOnce(t.Context(), suspects); err != nil || len(suspects) > 0 {
		t.Fatalf("the second round suspects %v, error %v; want nothing", suspects, err)
	}
	s.expectRecords(t, "after the second round", address, port)

	// A server alone does it at its start; there also what is missing is made, as for Services of an older skiff.
	leave()
	s.do(t, "DELETE", addressesPath+"/10.43.5.5", "").want(t, 200)
	s.stop()
	s = startOn(t, file)
	s.expectRecords(t, "after the start", address, port)
}

// Two servers never give the same address or node port to two Services, though both choose from few.
func TestTwoServersAllocate(t *testing.T) {
	servers, _ := startShared(t, 2)
	for _, s := range servers {
		s.allocator.ports = PortRange{30000, 30019}
	}
	var wg sync.WaitGroup
	codes := make(chan int, 100)
	for i := range 30 { // More than there are ports.
		wg.Go(func() {
			codes <- servers[i%2].do(t, "POST", servicesPath, serviceJSON(fmt.Sprint("s", i), `"type":"NodePort"`)).code
		})
		if i < 10 { // All want this one.
			wg.Go(func() {
				servers[i%2].do(t, "POST", servicesPath, serviceJSON(fmt.Sprint("t", i), `"clusterIP":"10.43.77.77"`))
			})
		}
	}
	wg.Wait()
	close(codes)
	created := 0
	for code := range codes {
		if code == 201 {
			created++
		}
	}
	list := parse[corev1.ServiceList](t, servers[0].do(t, "GET", servicesPath, "").want(t, 200))
	has, want := map[holding]string{}, []string{}
	wished := 0
	for _, svc := range list.Items {
		if svc.Name == "kubernetes" {
			continue
		}
		for _, h := range holdings(&svc) {
			if other, ok := has[h]; ok {
				t.Errorf("%s and %s both have %v", other, svc.Name, h)
			}
			has[h] = svc.Name
			want = append(want, h.storeKey())
		}
		if svc.Spec.ClusterIP == "10.43.77.77" {
			wished++
		}
	}
	slices.Sort(want)
	if created != 20 || wished != 1 {
		t.Errorf("%d of the Services that want a node port were made, want 20, for all ports; %d have the address that ten wanted, want 1", created, wished)
	}
	servers[0].expectRecords(t, "afterwards", want...)
}

// brokenStore goes away in the middle of writing a Service, and comes back when it is told to.
type brokenStore struct {
	store.Store
	away *atomic.Bool
}

func (b brokenStore) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if strings.HasPrefix(key, "services/default/lost") {
		b.away.Store(true)
	}
	if b.away.Load() {
		return 0, store.ErrUnavailable
	}
	return b.Store.Put(ctx, key, value, rev)
}

func (b brokenStore) List(ctx context.Context, prefix string) ([]store.KV, uint64, error) {
	if b.away.Load() {
		return nil, 0, store.ErrUnavailable
	}
	return b.Store.List(ctx, prefix)
}

// Where nobody knows whether a Service was written, its address is not given to another, until that is known.
func TestClaimOfOpenOutcome(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	away := &atomic.Bool{}
	s := startWith(t, brokenStore{db, away}, testConfig(t))
	s.do(t, "POST", servicesPath, serviceJSON("lost", `"clusterIP":"10.43.5.5"`)).refused(t, 504, metav1.StatusReasonTimeout, errOpenOutcome.Error())
	s.do(t, "POST", servicesPath, serviceJSON("other", `"clusterIP":"10.43.5.5"`)).refused(t, 422, metav1.StatusReasonInvalid, "provided IP is already allocated")
	away.Store(false)
	eventually(t, "the address is free", func() bool {
		return s.do(t, "POST", servicesPath, serviceJSON("other", `"clusterIP":"10.43.5.5"`)).code == 201
	})
	s.expectRecords(t, "afterwards", "ipaddresses.networking.k8s.io/10.43.5.5")
}
