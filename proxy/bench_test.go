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

// benchService is one of many Services, with two endpoints and TCP only.
func benchService(i int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	svc := newTestService(fmt.Sprintf("s%d", i), netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)}).String())
	svc.Spec.Type, svc.Spec.Ports = corev1.ServiceTypeClusterIP, svc.Spec.Ports[:1]
	svc.Spec.Ports[0].NodePort = 0
	return svc, newTestSlice(svc.Name, netip.AddrFrom4([4]byte{10, 42, byte(i >> 8), byte(i)}).String(), "10.44.0.1")
}

const benchServices = 10000

func fillRuleset() *Ruleset {
	r := NewRuleset(testConfig())
	for i := range benchServices {
		svc, slice := benchService(i)
		r.Set("default/"+svc.Name, svc, []*discoveryv1.EndpointSlice{slice})
	}
	return r
}

// BenchmarkFill programs 10,000 Services from nothing, decision included.
func BenchmarkFill(b *testing.B) {
	requireRoot(b)
	t := &table{config: testConfig()}
	b.Cleanup(func() { t.close(); must(b, Purge(t.config.Table)) })
	watchOwn(b, t)
	defer reportProcessor(b)()
	for b.Loop() {
		must(b, t.replace(fillRuleset().against(nil).add))
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
	t := &table{config: testConfig()}
	b.Cleanup(func() { t.close(); must(b, Purge(t.config.Table)) })
	r := fillRuleset()
	r.told()
	must(b, t.replace(r.against(nil).add))
	watchOwn(b, t)
	svc, slice := benchService(77)
	fewer := slice.DeepCopy()
	fewer.Endpoints = fewer.Endpoints[:1]
	states := []*discoveryv1.EndpointSlice{fewer, slice}
	i := 0
	defer reportProcessor(b)()
	for b.Loop() {
		r.Set("default/"+svc.Name, svc, []*discoveryv1.EndpointSlice{states[i%2]})
		must(b, t.commit(r.news()))
		r.told()
		i++
	}
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
	must(b, t.replace(fillRuleset().against(nil).add))
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
