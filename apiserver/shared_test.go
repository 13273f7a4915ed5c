package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"skiff/store"
	"skiff/store/etcd"
	"skiff/store/storetest"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// startShared starts servers that use one store in etcd.
func startShared(t *testing.T, count int) ([]*running, *storetest.Etcd) {
	t.Helper()
	e := storetest.StartEtcd(t)
	var all []*running
	key := testConfig(t).AccountKey
	for i := range count {
		db, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{e.URL}})
		if err != nil {
			t.Fatal(err)
		}
		config := testConfig(t)
		config.AccountKey = key
		config.Advertise = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 6443)
		all = append(all, startWith(t, db, config))
	}
	return all, e
}

// What one server answered, the other knows, though the news takes a moment to come to it.
func TestOtherServersWrites(t *testing.T) {
	servers, _ := startShared(t, 2)
	for i := range 50 {
		a, b := servers[i%2], servers[(i+1)%2]
		name := fmt.Sprint("c", i)
		path := configMapsPath + "/" + name
		created := a.createConfigMap(t, name)
		if got := parse[corev1.ConfigMap](t, b.do(t, "GET", path, "").want(t, 200)); got.UID != created.UID {
			t.Fatalf("the other server has UID %s, want %s", got.UID, created.UID)
		}
		created.Data["a"] = "2"
		updated := parse[corev1.ConfigMap](t, b.do(t, "PUT", path, toJSON(t, created)).want(t, 200))
		list := parse[corev1.ConfigMapList](t, a.do(t, "GET", configMapsPath, "").want(t, 200))
		if n := len(list.Items); n == 0 || list.Items[n-1].ResourceVersion != updated.ResourceVersion {
			t.Fatalf("the list of the first server has not what the second wrote at %s: %s", updated.ResourceVersion, toJSON(t, list))
		}
		a.do(t, "PUT", path, toJSON(t, created)).refused(t, 409, metav1.StatusReasonConflict)
		a.do(t, "DELETE", path, "").want(t, 200)
		b.do(t, "GET", path, "").want(t, 404)
		b.createConfigMap(t, name)
		a.do(t, "DELETE", path, "").want(t, 200)
	}
}

// behind makes a server ask before the news of a write has come to it.
func (s *running) behind(t *testing.T, write func(), ask func() answer) answer {
	t.Helper()
	s.cache.order.RLock() // No event is applied.
	locked := true
	unlock := func() {
		if locked {
			locked = false
			s.cache.order.RUnlock()
		}
	}
	defer unlock()
	write()
	got := make(chan answer, 1)
	go func() { got <- ask() }()
	waits := func() bool {
		s.cache.mu.Lock()
		defer s.cache.mu.Unlock()
		return len(got) > 0 || len(s.cache.waiting) > 0
	}
	eventually(t, "the request waits for the news, or is answered", waits)
	unlock()
	return <-got
}

// A kind that one server serves, and a token that it gave, are good at the other at once.
func TestOtherServersKindsAndTokens(t *testing.T) {
	servers, _ := startShared(t, 2)
	a, b := servers[0], servers[1]
	for i, path := range []string{"", "/v1", "/v1/boats", "/v1/namespaces/default/boats"} {
		group := fmt.Sprintf("sea%d.example.com", i)
		definition := strings.ReplaceAll(boatCRD(boatVersion("v1", true, boatSchema)), "sea.example.com", group)
		b.behind(t, func() { a.define(t, definition) }, func() answer { return b.do(t, "GET", "/apis/"+group+path, "") }).want(t, 200)
	}
	for i, path := range []string{"/apis", "/openapi/v3"} {
		group := fmt.Sprintf("lake%d.example.com", i)
		definition := strings.ReplaceAll(boatCRD(boatVersion("v1", true, boatSchema)), "sea.example.com", group)
		got := b.behind(t, func() { a.define(t, definition) }, func() answer { return b.do(t, "GET", path, "") }).want(t, 200)
		if !strings.Contains(string(got.body), group) {
			t.Errorf("%s of the other server does not have %s", path, group)
		}
	}
	var token string
	account := func() {
		a.do(t, "POST", accountsPath, `{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"robot"}}`).want(t, 201)
		token = a.token(t, "robot", `{}`)
	}
	b.behind(t, account, func() answer { return b.with(t, token, "GET", configMapsPath, "") }).refused(t, 403, metav1.StatusReasonForbidden, "system:serviceaccount:default:robot")
}

// A watch that one server began goes on at another: their revisions are the same.
func TestRevisionsOfTwoServers(t *testing.T) {
	servers, _ := startShared(t, 2)
	a, b := servers[0], servers[1]
	created := a.createConfigMap(t, "one")
	list := parse[corev1.ConfigMapList](t, b.do(t, "GET", configMapsPath+"?resourceVersion="+created.ResourceVersion+"&resourceVersionMatch=Exact", "").want(t, 200))
	if len(list.Items) != 1 || list.ResourceVersion != created.ResourceVersion {
		t.Errorf("the list at revision %s is %s", created.ResourceVersion, toJSON(t, list))
	}
	rev, err := strconv.ParseUint(created.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	_, past, err := b.shelf("configmaps").watchFrom(rev - 1)
	if err != nil || len(past) != 1 || past[0].rev != rev {
		t.Errorf("a watch after %d gives %v, error %v", rev-1, past, err)
	}
}

// While etcd is away the servers say so, and answer what may be old; afterwards they go on by themselves.
func TestStoreAway(t *testing.T) {
	servers, e := startShared(t, 1)
	s := servers[0]
	s.createConfigMap(t, "one")
	path := configMapsPath + "/one"
	e.Kill()
	a := s.do(t, "GET", path, "")
	a.refused(t, 503, metav1.StatusReasonServiceUnavailable, "store unavailable", "connection refused")
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q, want 1", a.header.Get("Retry-After"))
	}
	s.do(t, "POST", configMapsPath, configMapJSON("two")).refused(t, 503, metav1.StatusReasonServiceUnavailable, "store unavailable")
	s.do(t, "GET", path+"?resourceVersion=0", "").want(t, 200)
	s.do(t, "GET", "/livez", "").want(t, 200)
	s.do(t, "GET", "/readyz", "").want(t, 500)

	e.Start()
	eventually(t, "the server is ready again", func() bool { return s.do(t, "GET", "/readyz", "").code == 200 })
	s.do(t, "GET", path, "").want(t, 200)
	s.createConfigMap(t, "two")
}

// The endpoints of the Service "kubernetes" are the servers that are there: all that came, less those that took their
// leave or fell silent.
func TestPeers(t *testing.T) {
	servers, _ := startShared(t, 3)
	expectPeers(t, servers[0], "192.0.2.1", "192.0.2.2", "192.0.2.3")

	if err := servers[1].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	servers[1].stop()
	expectPeers(t, servers[0], "192.0.2.1", "192.0.2.3")

	first := servers[0]
	now := time.Now()
	servers[2].stop()     // As if killed: it says nothing.
	first.peers.mu.Lock() // The server looks around, too.
	defer first.peers.mu.Unlock()
	first.lookAround(t.Context(), now)
	if err := first.set(t.Context(), leases, first.ownLease()); err != nil {
		t.Fatal(err)
	}
	alive := first.lookAround(t.Context(), now.Add(peerSilent+time.Second))
	if want := []netip.AddrPort{first.config.Advertise}; !slices.Equal(alive, want) {
		t.Errorf("after the third fell silent %v are there, want %v", alive, want)
	}
	if err := first.publishPeers(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectPeers(t, first, "192.0.2.1")
}

// A server that is reached at another address than before is known by that one alone, whether or not there are others.
func TestServerMoves(t *testing.T) {
	servers, _ := startShared(t, 2)
	expectPeers(t, servers[0], "192.0.2.1", "192.0.2.2")
	if err := servers[1].Move(t.Context(), netip.MustParseAddrPort("192.0.2.9:6443")); err != nil {
		t.Fatal(err)
	}
	expectPeers(t, servers[1], "192.0.2.1", "192.0.2.9")

	single := start(t)
	if err := single.Move(t.Context(), netip.MustParseAddrPort("198.51.100.9:6443")); err != nil {
		t.Fatal(err)
	}
	expectPeers(t, single, "198.51.100.9")
}

func expectPeers(t *testing.T, s *running, want ...string) {
	t.Helper()
	var inEndpoints, inSlice []string
	endpoints := parse[corev1.Endpoints](t, s.do(t, "GET", "/api/v1/namespaces/default/endpoints/kubernetes", "").want(t, 200))
	for _, a := range endpoints.Subsets[0].Addresses {
		inEndpoints = append(inEndpoints, a.IP)
	}
	slice := parse[discoveryv1.EndpointSlice](t, s.do(t, "GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes", "").want(t, 200))
	for _, e := range slice.Endpoints {
		inSlice = append(inSlice, e.Addresses...)
	}
	if !slices.Equal(inEndpoints, want) || !slices.Equal(inSlice, want) {
		t.Errorf("the endpoints of kubernetes are %v, those of its slice %v, want %v", inEndpoints, inSlice, want)
	}
}

// A request is never answered by a question that was put before the request came.
func TestNewestIsAskedAfterwards(t *testing.T) {
	questions := make(chan chan uint64)
	n := &newest{store: slowStore{questions: questions}}
	get := func() chan uint64 {
		result := make(chan uint64, 1)
		go func() {
			rev, err := n.revision(t.Context())
			if err != nil {
				t.Error(err)
			}
			result <- rev
		}()
		return result
	}
	first := get()
	question := <-questions
	second := get()
	eventually(t, "the second request waits for the next question", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.next != nil
	})
	question <- 1
	if rev := <-first; rev != 1 {
		t.Errorf("the first request got revision %d, want 1", rev)
	}
	<-questions <- 2
	if rev := <-second; rev != 2 {
		t.Errorf("the second request got revision %d, want 2: the first question was put before it came", rev)
	}
}

// slowStore answers when the test says so. Only Newest is called.
type slowStore struct {
	store.Shared
	questions chan<- chan uint64
}

func (s slowStore) Newest(context.Context) (uint64, error) {
	question := make(chan uint64)
	s.questions <- question
	return <-question, nil
}

// A server that is set otherwise than another of its store does not begin, says so in one line, and leaves nothing. With those that
// are silent, or are of a version that has no such setting, it need not agree.
func TestServersAgree(t *testing.T) {
	e := storetest.StartEtcd(t)
	begin := func(host byte, common ...string) (*Server, error) {
		t.Helper()
		db, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{e.URL}})
		if err != nil {
			t.Fatal(err)
		}
		config := testConfig(t)
		config.Advertise = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), 6443)
		config.Common = common
		ctx, cancel := context.WithCancel(context.Background())
		s, err := New(ctx, db, config)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-ended; db.Close() })
		return s, s.Bootstrap(ctx)
	}
	first, err := begin(1, "--service-cidr=10.43.0.0/16", "--cluster-domain=cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	_, err = begin(2, "--service-cidr=10.44.0.0/16", "--cluster-domain=cluster.local")
	const want = "the server at 192.0.2.1:6443 serves this cluster with --service-cidr=10.43.0.0/16, and this one would with --service-cidr=10.44.0.0/16: all servers of a cluster need the same"
	if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("a server with another range begins: %v, want one line %q", err, want)
	}
	if _, err := begin(3, "--service-cidr=10.43.0.0/16", "--new=1"); err != nil {
		t.Errorf("a server with the same range: %v", err)
	}
	alive := func() []netip.AddrPort {
		first.peers.mu.Lock()
		defer first.peers.mu.Unlock()
		return first.lookAround(t.Context(), time.Now())
	}
	eventually(t, "the third server is known, and the second is not", func() bool {
		return slices.Equal(alive(), []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6443"), netip.MustParseAddrPort("192.0.2.3:6443")})
	})
	for _, s := range []string{"1", "3"} {
		lease := parse[coordinationv1.Lease](t, (&running{Server: first}).do(t, "GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/apiserver-192-0-2-"+s+"-6443", "").want(t, 200))
		lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now().Add(-time.Hour)}
		(&running{Server: first}).do(t, "PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/"+lease.Name, toJSON(t, lease)).want(t, 200)
	}
	if _, err := begin(4, "--service-cidr=10.44.0.0/16"); err != nil {
		t.Errorf("a server with another range, when the others are silent: %v", err)
	}
}
