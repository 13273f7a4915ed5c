package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// benchService is one of many Services, with two endpoints in each family and TCP only.
func (w world) benchService(i int) serviceState {
	svc := newTestService(fmt.Sprintf("s%d", i), "")
	svc.Spec.ClusterIPs = nil
	svc.Spec.Type, svc.Spec.Ports = corev1.ServiceTypeClusterIP, svc.Spec.Ports[:1]
	svc.Spec.Ports[0].NodePort = 0
	s := serviceState{svc: svc}
	for _, f := range w.families {
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, f.asAddr(netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)})).String())
		slice := newTestSlice(svc.Name, f.asAddr(netip.AddrFrom4([4]byte{10, 42, byte(i >> 8), byte(i)})).String(), f.as("10.44.0.1"))
		slice.Name, slice.AddressType = f.named(svc.Name+"-"), f.slices()
		s.slices = append(s.slices, slice)
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	return s
}

const benchServices = 10000

func (w world) benchServices() []serviceState {
	var all []serviceState
	for i := range benchServices {
		all = append(all, w.benchService(i))
	}
	return all
}

func (w world) fill(all []serviceState) *Ruleset {
	r := NewRuleset(w.config())
	for _, s := range all {
		r.Set("default/"+s.svc.Name, s.svc, s.slices)
	}
	return r
}

// BenchmarkFill programs 10,000 Services from nothing, decision included: of IPv4, and of both families.
func BenchmarkFill(b *testing.B) {
	requireRoot(b)
	for _, w := range worlds() {
		b.Run(fmt.Sprintf("%dfamilies", len(w.families)), func(b *testing.B) {
			t, all := &table{config: w.config()}, w.benchServices()
			b.Cleanup(func() { t.close(); must(b, Purge(t.config.Table)) })
			watchOwn(b, t)
			cpu := 0.0
			for b.Loop() {
				before := processorTime(b)
				must(b, t.replace(w.fill(all).against(nil).add))
				cpu += processorTime(b) - before
			}
			b.ReportMetric(cpu/float64(b.N)*1e9, "cpu-ns/op")
		})
	}
}

// reportProcessor reports how much processor time a round takes, which other work on the machine changes less than how long it takes.
func reportProcessor(b *testing.B) (report func()) {
	before := processorTime(b)
	return func() { b.ReportMetric((processorTime(b)-before)/float64(b.N)*1e9, "cpu-ns/op") }
}

// watchOwn has the table watched, as a proxy does, which costs something. Nobody else changes it.
func watchOwn(b *testing.B, t *table) {
	b.Helper()
	stop, err := t.watch(func() { b.Error("a change of its own looks like another's") })
	must(b, err)
	b.Cleanup(stop)
}

// BenchmarkFillFloor adds as many elements to one plain set, with nothing decided.
func BenchmarkFillFloor(b *testing.B) {
	requireRoot(b)
	t := &table{config: testConfig()}
	b.Cleanup(func() { t.close(); must(b, Purge(t.config.Table)) })
	defer reportProcessor(b)()
	for b.Loop() {
		conn, set := floorSet(b, t)
		var list []nftables.SetElement
		for i := range 4 * benchServices { // One number, two endpoints and one hairpin for each.
			list = append(list, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(i))})
			if len(list) == chunk {
				must(b, conn.SetAddElements(set, list))
				list = nil
			}
		}
		must(b, conn.Flush())
	}
}

// BenchmarkChange takes an endpoint from one of 10,000 Services and gives it back, by turns.
func BenchmarkChange(b *testing.B) {
	requireRoot(b)
	w := oneFamily()
	t := &table{config: w.config()}
	b.Cleanup(func() { t.close(); must(b, Purge(t.config.Table)) })
	all := w.benchServices()
	r := w.fill(all)
	r.told()
	must(b, t.replace(r.against(nil).add))
	watchOwn(b, t)
	one := all[77]
	states := []*discoveryv1.EndpointSlice{withFewer(one.slices[0]), one.slices[0]}
	i := 0
	defer reportProcessor(b)()
	for b.Loop() {
		r.Set("default/"+one.svc.Name, one.svc, list(states[i%2]))
		must(b, t.commit(r.news()))
		r.told()
		i++
	}
}

// withFewer is the slice without all but its first endpoint.
func withFewer(slice *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	fewer := slice.DeepCopy()
	fewer.Endpoints = fewer.Endpoints[:1]
	return fewer
}

// BenchmarkChangeFloor adds an element to a plain set and removes it, by turns.
func BenchmarkChangeFloor(b *testing.B) {
	requireRoot(b)
	t := &table{config: testConfig()}
	b.Cleanup(func() { t.close(); must(b, Purge(t.config.Table)) })
	conn, set := floorSet(b, t)
	must(b, conn.Flush())
	element := []nftables.SetElement{{Key: []byte{1, 2, 3, 4}}}
	i := 0
	defer reportProcessor(b)()
	for b.Loop() {
		conn, err := t.dial()
		must(b, err)
		if i%2 == 0 {
			must(b, conn.SetAddElements(set, element))
		} else {
			must(b, conn.SetDeleteElements(set, element))
		}
		must(b, conn.Flush())
		i++
	}
}

// BenchmarkLoad reads 10,000 Services back, as a restart does.
func BenchmarkLoad(b *testing.B) {
	requireRoot(b)
	t := &table{config: testConfig()}
	b.Cleanup(func() { t.close(); must(b, Purge(t.config.Table)) })
	w := oneFamily()
	must(b, t.replace(w.fill(w.benchServices()).against(nil).add))
	for b.Loop() {
		_, err := t.load()
		must(b, err)
	}
}

func floorSet(b *testing.B, t *table) (*nftables.Conn, *nftables.Set) {
	b.Helper()
	conn, err := t.dial()
	must(b, err)
	conn.AddTable(t.ref())
	conn.DelTable(t.ref())
	conn.AddTable(t.ref())
	set := &nftables.Set{Table: t.ref(), ID: 1, Name: "floor", KeyType: nftables.TypeIPAddr}
	must(b, conn.AddSet(set, nil))
	return conn, set
}
