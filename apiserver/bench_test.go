package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
)

// Each benchmark stands beside its floor: the least that any server would have to do, measured in the same run.

const benchPods = 1000

// startWithPods fills the cache with pods without writing them one by one.
func startWithPods(b *testing.B) *running {
	b.Helper()
	s := start(b)
	p := s.createPod(b, "p")
	sh := s.shelf("pods")
	size := sh.get("default/p").size
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for i := range benchPods - 1 {
		next := p.DeepCopy()
		next.Name = fmt.Sprintf("p%04d", i)
		next.UID = uuid.NewUUID()
		next.SetGroupVersionKind(sh.resource.GroupVersionKind())
		sh.tree.ReplaceOrInsert(&item{key: "default/" + next.Name, rev: uint64(i + 1), obj: next, size: size, encodings: sh.encodings})
	}
	return s
}

// discard is a response that goes nowhere.
type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(b []byte) (int, error) { d.n += len(b); return len(b), nil }

// BenchmarkList lists 1,000 pods whose encodings are cached, and a page of 5. The floor copies as many bytes.
func BenchmarkList(b *testing.B) {
	s := startWithPods(b)
	for _, form := range []struct{ name, accept, query, encoding string }{{"JSON", typeJSON, "", ""}, {"protobuf", typeProto, "", ""}, {"Table", acceptTable, "", ""}, {"page", typeJSON, "?limit=5", ""},
		{"JSON-gzip", typeJSON, "", "gzip"}, {"protobuf-gzip", typeProto, "", "gzip"}} {
		req, err := http.NewRequestWithContext(withUser(context.Background(), administrator), "GET", podsPath+form.query, nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Accept", form.accept)
		req.Header.Set("Accept-Encoding", form.encoding)
		size := 0
		b.Run(form.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := &discard{header: http.Header{}}
				s.ServeHTTP(w, req)
				size = w.n
			}
			b.SetBytes(int64(size))
		})
		b.Run(form.name+"/floor", func(b *testing.B) {
			from := make([]byte, size)
			for b.Loop() {
				var to bytes.Buffer
				to.Write(from)
				io.Discard.Write(to.Bytes())
			}
			b.SetBytes(int64(size))
		})
	}
}

// BenchmarkListCompressed lists 1,000 pods for the first time, and each time again after so many of them have changed. The floor
// is to compress the whole list.
func BenchmarkListCompressed(b *testing.B) {
	s := startWithPods(b)
	sh := s.shelf("pods")
	req, err := http.NewRequestWithContext(withUser(context.Background(), administrator), "GET", podsPath, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "gzip")
	list := func() int {
		w := &discard{header: http.Header{}}
		s.ServeHTTP(w, req)
		return w.n
	}
	items := sh.state(s.cache).items(selectAll(sh.resource))
	bytes := list()
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			for _, it := range items {
				forgetRun(it)
			}
			b.StartTimer()
			bytes = list()
		}
		b.ReportMetric(float64(bytes), "bytes")
	})
	rev := uint64(benchPods)
	for _, changes := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("%d changed", changes), func(b *testing.B) {
			for b.Loop() {
				for i := range changes {
					it := items[i*len(items)/changes]
					rev++
					sh.apply(it.key, rev, &item{key: it.key, rev: rev, obj: it.obj, size: it.size, encodings: it.encodings})
				}
				bytes = list()
			}
			b.ReportMetric(float64(bytes), "bytes")
		})
	}
	b.Run("floor", func(b *testing.B) {
		all, err := listJSON(sh.resource, sh.state(s.cache).page(selectAll(sh.resource), "", 0))
		if err != nil {
			b.Fatal(err)
		}
		body, err := all.bytes()
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			w := &discard{}
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
			z.Write(body)
			z.Close()
			bytes = w.n
		}
		b.ReportMetric(float64(bytes), "bytes")
	})
}

// BenchmarkPatch changes one object end to end: request, patch, validation, disk, memory, answer. The floor is the store's
// write of the same bytes.
func BenchmarkPatch(b *testing.B) {
	s := start(b)
	s.createPod(b, "p")
	b.Run("handler", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			n++
			s.do(b, "PATCH", podsPath+"/p", `{"metadata":{"labels":{"n":"`+strconv.Itoa(n)+`"}}}`, merge...).want(b, 200)
		}
	})
	b.Run("floor", func(b *testing.B) {
		data, err := marshalStored(s.shelf("pods").get("default/p").obj.DeepCopyObject())
		if err != nil {
			b.Fatal(err)
		}
		s.stop()
		floor := start(b)
		rev, err := floor.store.Put(context.Background(), records+"floor", data, 0)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if rev, err = floor.store.Put(context.Background(), records+"floor", data, rev); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkManagedFields writes an object, but for the disk. The floor is the same update of an object that has no managed
// fields, as those have none that skiff's components make.
func BenchmarkManagedFields(b *testing.B) {
	s := start(b)
	path := deployments + "/web"
	image := func(n int) string {
		return strings.Replace(deploymentJSON("web"), "nginx", "nginx:"+strconv.Itoa(n), 1)
	}
	run := func(name string, headers []string, query string, body func(n int) string) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for n := 1; b.Loop(); n++ {
				s.do(b, "PATCH", path+"?dryRun=All&fieldManager=me"+query, body(n), headers...).want(b, 200)
			}
		})
	}
	apply := []string{"Content-Type", "application/apply-patch+yaml"}
	s.do(b, "PATCH", path+"?fieldManager=me", image(0), apply...).want(b, 201)
	run("apply/no change", apply, "", func(int) string { return image(0) })
	run("apply/change", apply, "", image)
	run("update/tracked", strategic, "", image)
	s.do(b, "DELETE", path, "").want(b, 200)
	s.do(b, "POST", deployments, image(0), "User-Agent", "skiff/v0").want(b, 201)
	run("update/floor", strategic, "", image)
}

// BenchmarkFanOut tells 100 watchers of one change, until all have read it. The floor hands the same bytes to 100
// goroutines through pipes.
func BenchmarkFanOut(b *testing.B) {
	const watchers = 100
	s := start(b)
	s.createPod(b, "p")
	sh := s.shelf("pods")
	it := sh.get("default/p")
	frame, err := it.jsonBytes()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("watchers", func(b *testing.B) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var read sync.WaitGroup
		for range watchers {
			req, err := http.NewRequestWithContext(ctx, "GET", "http://memory"+podsPath+"?watch=1", nil)
			if err != nil {
				b.Fatal(err)
			}
			resp, err := s.Transport(administrator).RoundTrip(req)
			if err != nil {
				b.Fatal(err)
			}
			read.Add(1) // The addition that each begins with.
			go drain(resp.Body, read.Done)
		}
		read.Wait()
		rev := it.rev
		b.ReportAllocs()
		for b.Loop() {
			read.Add(watchers)
			rev++
			sh.apply(it.key, rev, &item{key: it.key, rev: rev, obj: it.obj, size: it.size})
			read.Wait()
		}
	})
	b.Run("floor", func(b *testing.B) {
		var read sync.WaitGroup
		var pipes []*io.PipeWriter
		line := append(fmt.Appendf(nil, `{"type":%q,"object":`, watch.Modified), append(frame, "}\n"...)...)
		for range watchers {
			r, w := io.Pipe()
			pipes = append(pipes, w)
			defer w.Close()
			go drain(r, read.Done)
		}
		for b.Loop() {
			read.Add(watchers)
			for _, w := range pipes {
				go w.Write(line)
			}
			read.Wait()
		}
	})
}

// drain reads lines and calls done after each.
func drain(from io.Reader, done func()) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		for range bytes.Count(buf[:n], []byte("\n")) {
			done()
		}
		if err != nil {
			return
		}
	}
}

func forgetRun(it *item) {
	if e := it.json.Load(); e != nil {
		without := *e
		without.run = nil
		it.keep(&it.json, &without)
	}
}
