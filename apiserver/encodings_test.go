package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Whatever is asked for, the items of all shelves keep no more of how they read than they may, and those asked for last.
func TestEncodingsAreBounded(t *testing.T) {
	s := start(t)
	const objects = 20
	big := strings.Repeat("x", 10<<10)
	for i := range objects {
		s.do(t, "POST", configMapsPath, strings.Replace(configMapJSON(fmt.Sprintf("c%02d", i)), `"1"`, `"`+big+`"`, 1)).want(t, 201)
	}
	kept := s.cache.encodings
	s.Forget()
	kept.most = 100 << 10
	get := func(i int, media string) {
		s.do(t, "GET", fmt.Sprintf("%s/c%02d", configMapsPath, i), "", "Accept", media).want(t, 200)
		holdsWhatItCounts(t, s)
	}
	for range 2 {
		for i := range objects {
			get(i, typeJSON)
			get(i, typeProto)
		}
		for _, coding := range []string{"", "gzip", "gzip"} {
			s.do(t, "GET", configMapsPath, "", "Accept-Encoding", coding).want(t, 200)
			holdsWhatItCounts(t, s)
		}
	}
	newest := s.shelf("configmaps").get("default/c19")
	if get(19, typeJSON); newest.json.Load() == nil {
		t.Error("what was asked for last is not kept")
	}
	s.do(t, "PATCH", configMapsPath+"/c19", `{"data":{"a":"2"}}`, merge...).want(t, 200)
	if newest.json.Load() != nil {
		t.Error("how an object read before its last change is kept")
	}
	holdsWhatItCounts(t, s)
	s.Forget()
	if kept.oldest != nil || kept.newest != nil || kept.bytes != 0 {
		t.Errorf("after all was forgotten there are %d bytes, from %v to %v", kept.bytes, kept.oldest, kept.newest)
	}
}

// holdsWhatItCounts compares what the server says that its encodings take with what they do.
func holdsWhatItCounts(t *testing.T, s *running) {
	t.Helper()
	k := s.cache.encodings
	k.mu.Lock()
	defer k.mu.Unlock()
	size := 0
	for it := k.oldest; it != nil; it = it.link.younger {
		size += it.json.Load().size() + it.proto.Load().size()
		if it.link.younger == nil && it != k.newest {
			t.Errorf("the newest is %s, want %s", k.newest.key, it.key)
		}
	}
	if size != k.bytes || size > k.most {
		t.Errorf("%d bytes are kept, %d are counted, %d are the most", size, k.bytes, k.most)
	}
}

// Many may ask for the same at once while it is pushed out.
func TestEncodingsAreMadeAtOnce(t *testing.T) {
	s := start(t)
	for i := range 8 {
		s.createConfigMap(t, fmt.Sprintf("c%d", i))
	}
	s.cache.encodings.most = 2000
	sh := s.shelf("configmaps")
	all := sh.state(s.cache).page(selectAll(sh.resource), "", 0)
	items := all.items
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for i := range 500 {
				it := items[i%len(items)]
				if _, err := it.frame([]string{typeJSON, typeProto}[i%2], []watch.EventType{watch.Added, watch.Modified}[i%3/2]); err != nil {
					t.Error(err)
				}
				list, err := []func(*api.Resource, page) (document, error){listJSON, listProto}[i%2](sh.resource, all)
				if err == nil {
					err = list.write(newMember(io.Discard))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	asking.Wait()
	holdsWhatItCounts(t, s)
}

// A list of more than the server keeps says the same as a shorter one, is as long as it was said to be, and leaves nothing behind.
func TestLongListIsEncodedAsItGoes(t *testing.T) {
	s := start(t)
	big := strings.Repeat("x", 900<<10)
	const objects = longList/(900<<10) + 2
	for i := range objects {
		s.do(t, "POST", configMapsPath, strings.Replace(configMapJSON(fmt.Sprintf("c%02d", i)), `"1"`, `"`+big+`"`, 1)).want(t, 201)
	}
	s.Forget()
	for _, form := range [][2]string{{typeJSON, ""}, {typeProto, ""}, {typeJSON, "gzip"}, {typeProto, "gzip"}} {
		media := form[0]
		req := httptest.NewRequest("GET", configMapsPath, nil)
		req = req.WithContext(withUser(context.Background(), administrator))
		req.Header.Set("Accept", media)
		req.Header.Set("Accept-Encoding", form[1])
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		body := w.Body.Bytes()
		if form[1] != "" {
			if len(body) > longList/10 {
				t.Errorf("%v: %d bytes", form, len(body))
			}
			body = gunzip(t, body)
		} else if size := w.Header().Get("Content-Length"); media == typeProto && size != fmt.Sprint(len(body)) || media == typeJSON && size != "" {
			t.Errorf("%s: said to be %q bytes, is %d", media, size, len(body))
		}
		decoder, err := decoderFor(media, true)
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := decoder.Decode(body, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", media, err)
		}
		list := obj.(*corev1.ConfigMapList)
		if len(list.Items) != objects {
			t.Fatalf("%s: %d objects, want %d", media, len(list.Items), objects)
		}
		for i, m := range list.Items {
			if m.Name != fmt.Sprintf("c%02d", i) || len(m.Data["a"]) != len(big) {
				t.Errorf("%s: object %d is %s with %d bytes", media, i, m.Name, len(m.Data["a"]))
			}
		}
		if s.cache.encodings.oldest != nil {
			t.Errorf("%s: the list left encodings behind", media)
		}
	}
}
