package apiserver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Runs are all items, in order, and a change of one item touches no run but that of it and the one before.
func TestRunsStayWhereTheyAre(t *testing.T) {
	var items []*item
	for i := range 2000 {
		items = append(items, &item{key: fmt.Sprint(i), rev: uint64(i*i%5000 + i), size: 500 + i%4000})
	}
	cut := func(items []*item) (all [][]*item) {
		for from, end := range runs(items) {
			all = append(all, items[from:end])
		}
		return all
	}
	before := cut(items)
	if got := slices.Concat(before...); !slices.Equal(got, items) {
		t.Fatalf("the runs have %d items, want the %d in order", len(got), len(items))
	}
	if n := len(before); n < 30 || n > 150 { // Of some 5 MB.
		t.Errorf("there are %d runs", n)
	}
	for gone := 100; gone < len(items); gone += 100 {
		fewer := cut(slices.Delete(slices.Clone(items), gone, gone+1))
		same := 0
		for _, run := range fewer {
			if slices.ContainsFunc(before, func(other []*item) bool { return slices.Equal(run, other) }) {
				same++
			}
		}
		if len(fewer)-same > 1 {
			t.Errorf("without item %d, %d of %d runs are others", gone, len(fewer)-same, len(fewer))
		}
	}
	if all := cut(nil); all != nil {
		t.Errorf("no items are %d runs", len(all))
	}
}

// Compressed or not, a list says the same: for the first time, again, and after objects have come, changed and gone; and whatever
// part of it somebody asks for.
func TestCompressedListsSayTheSame(t *testing.T) {
	s := start(t)
	r := rand.New(rand.NewPCG(1, 1))
	object := func(name string) string {
		sizes := []int{10, 300, 3000, 20_000}
		return fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q,"labels":{"half":"%d"}},"data":{"a":"%x"}}`, name, r.IntN(2), randomText(r, sizes[r.IntN(len(sizes))]))
	}
	const other = "/api/v1/namespaces/kube-system/configmaps"
	paths := []string{configMapsPath, other}
	for i := range 120 {
		s.do(t, "POST", paths[i%2], object(fmt.Sprintf("c%03d", i))).want(t, 201)
	}
	compressed := 0
	same := func(path, media string) answer {
		t.Helper()
		plain := s.do(t, "GET", path, "", "Accept", media).want(t, 200)
		zipped := s.do(t, "GET", path, "", "Accept", media, "Accept-Encoding", "gzip").want(t, 200)
		body := zipped.body
		if zipped.header.Get("Content-Encoding") == "gzip" {
			compressed++
			body = gunzip(t, body)
		}
		if !bytes.Equal(body, plain.body) {
			t.Fatalf("%s as %s: compressed %d bytes, want %d others", path, media, len(body), len(plain.body))
		}
		return plain
	}
	for range 8 {
		for _, media := range []string{typeJSON, typeProto} {
			for _, path := range []string{"/api/v1/configmaps", configMapsPath, other, "/api/v1/configmaps?labelSelector=half%3D1", configMapsPath + "?fieldSelector=metadata.name%21%3Dc010"} {
				same(path, media)
			}
		}
		page := parse[corev1.ConfigMapList](t, same("/api/v1/configmaps?limit=60", typeJSON))
		for page.Continue != "" {
			page = parse[corev1.ConfigMapList](t, same("/api/v1/configmaps?limit=60&continue="+url.QueryEscape(page.Continue), typeJSON))
		}
		for range r.IntN(8) {
			name := fmt.Sprintf("c%03d", r.IntN(150))
			for i, path := range paths {
				switch exists := s.do(t, "GET", path+"/"+name, "").code == 200; {
				case !exists:
					s.do(t, "POST", path, object(name)).want(t, 201)
				case (i+r.IntN(2))%2 == 0:
					s.do(t, "PUT", path+"/"+name, object(name)).want(t, 200)
				default:
					s.do(t, "DELETE", path+"/"+name, "").want(t, 200)
				}
			}
		}
	}
	if compressed < 50 {
		t.Errorf("%d answers were compressed", compressed)
	}
}

// A list that is asked for again is made of runs that are kept, but for those that have changed; and nobody keeps any for those
// who do not ask for them.
func TestRunsAreKept(t *testing.T) {
	s := start(t)
	const objects = 60
	for i := range objects {
		s.do(t, "POST", configMapsPath, strings.Replace(configMapJSON(fmt.Sprintf("c%02d", i)), `"1"`, fmt.Sprintf(`"%x"`, randomText(rand.New(rand.NewPCG(uint64(i), 0)), 8000)), 1)).want(t, 201)
	}
	sh := s.shelf("configmaps")
	kept := func() map[*run]bool {
		all := map[*run]bool{}
		for _, it := range sh.state(s.cache).items(selectAll(sh.resource)) {
			if e := it.json.Load(); e != nil && e.run != nil {
				all[e.run] = true
			}
		}
		return all
	}
	s.do(t, "GET", configMapsPath, "").want(t, 200)
	if n := len(kept()); n > 0 {
		t.Errorf("%d runs are kept for nobody", n)
	}
	list := func() map[*run]bool {
		s.do(t, "GET", configMapsPath, "", "Accept-Encoding", "gzip").want(t, 200)
		return kept()
	}
	first := list()
	if len(first) < 5 {
		t.Fatalf("%d runs are kept", len(first))
	}
	again := list()
	for r := range first {
		if !again[r] {
			t.Error("a run is made again where nothing has changed")
		}
	}
	s.do(t, "PATCH", configMapsPath+"/c30", `{"data":{"a":"2"}}`, merge...).want(t, 200)
	others := 0
	for r := range list() {
		if !first[r] {
			others++
		}
	}
	if others == 0 || others > 3 { // It may have begun one that it does not begin now, or the other way round.
		t.Errorf("after one change there are %d other runs", others)
	}
	s.Forget()
	if n := len(kept()); n > 0 {
		t.Errorf("%d runs are kept when all has been forgotten", n)
	}
}
