package apiserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	informer "k8s.io/client-go/tools/cache"
)

// seen is a watch event as a client reads it.
type seen struct {
	Type   string
	Object struct {
		metav1.TypeMeta
		Metadata metav1.ObjectMeta `json:"metadata"`
		Reason   string
		Code     int
		Message  string
	}
}

func (e seen) String() string { return e.Type + " " + e.Object.Metadata.Name }

// reader reads the frames of a JSON watch.
type reader struct {
	t    testing.TB
	body io.ReadCloser
	in   *json.Decoder
}

// watch begins a watch in memory. path has its parameters, but for watch=1.
func (s *running) watch(t testing.TB, path string, headers ...string) *reader {
	t.Helper()
	body := s.stream(t, path, headers...)
	return &reader{t, body, json.NewDecoder(body)}
}

func (s *running) stream(t testing.TB, path string, headers ...string) io.ReadCloser {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://memory"+path+sep+"watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.Transport(administrator).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("watch %s: %d %s", path, resp.StatusCode, body)
	}
	return resp.Body
}

func (r *reader) next() seen {
	r.t.Helper()
	var e seen
	if err := r.in.Decode(&e); err != nil {
		r.t.Fatalf("read a watch event: %v", err)
	}
	return e
}

func (r *reader) want(events ...string) {
	r.t.Helper()
	for i, want := range events {
		if got := r.next().String(); got != want {
			r.t.Fatalf("event %d is %q, want %q", i+1, got, want)
		}
	}
}

// ended fails the test unless the watch ends without a further event.
func (r *reader) ended() {
	r.t.Helper()
	var e seen
	if err := r.in.Decode(&e); err != io.EOF {
		r.t.Fatalf("the watch did not end: event %v, error %v", e, err)
	}
}

// write makes a small history: a is created, changed and deleted, b created. It returns the revision before it.
func (s *running) write(t testing.TB) (before string) {
	t.Helper()
	list := parse[corev1.ConfigMapList](t, s.do(t, "GET", configMapsPath, "").want(t, 200))
	s.createConfigMap(t, "a")
	s.createConfigMap(t, "b")
	s.do(t, "PATCH", configMapsPath+"/a", `{"data":{"a":"2"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
	s.do(t, "DELETE", configMapsPath+"/a", "").want(t, 200)
	return list.ResourceVersion
}

// A watch from a revision gets every later event, in order, whether it happened before the watch began or after.
func TestWatchReplaysExactly(t *testing.T) {
	s := start(t)
	from := s.write(t)
	w := s.watch(t, configMapsPath+"?resourceVersion="+from)
	w.want("ADDED a", "ADDED b", "MODIFIED a")
	gone := w.next()
	if gone.String() != "DELETED a" {
		t.Fatalf("event is %s, want DELETED a", gone)
	}
	s.createConfigMap(t, "c")
	after := w.next()
	if after.String() != "ADDED c" {
		t.Fatalf("event is %s, want ADDED c", after)
	}
	if a, b := revision(t, gone), revision(t, after); a >= b {
		t.Errorf("the deletion has revision %d, the addition after it %d: want them to rise", a, b)
	}
	s.watch(t, configMapsPath+"?resourceVersion="+gone.Object.Metadata.ResourceVersion).want("ADDED c")
}

func revision(t testing.TB, e seen) uint64 {
	t.Helper()
	rev, err := strconv.ParseUint(e.Object.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// Without a revision a watch begins with what is there.
func TestWatchFromNow(t *testing.T) {
	s := start(t)
	s.write(t)
	for _, query := range []string{"", "?resourceVersion=0"} {
		s.watch(t, configMapsPath+query).want("ADDED b")
	}
}

func TestWatchOfTooOldRevision(t *testing.T) {
	s := start(t)
	from := s.write(t)
	sh := s.shelf("configmaps")
	sh.mu.Lock()
	for len(sh.ring) > 1 {
		sh.since, sh.ring = sh.ring[0].rev, sh.ring[1:]
	}
	sh.mu.Unlock()
	w := s.watch(t, configMapsPath+"?resourceVersion="+from)
	e := w.next()
	if e.Type != "ERROR" || e.Object.Code != 410 || e.Object.Reason != string(metav1.StatusReasonExpired) || !strings.Contains(e.Object.Message, "too old resource version: "+from) {
		t.Errorf("event is %+v, want ERROR with 410 Expired", e)
	}
	w.ended()
}

// What is kept of the past is bounded in events and in bytes, deletions counted with what they keep.
func TestRingIsBounded(t *testing.T) {
	s := start(t)
	sh := s.shelf("configmaps")
	for i := range ringEvents {
		name := fmt.Sprintf("default/c%d", i%10)
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
		it := &item{key: name, rev: uint64(i + 1), obj: obj, size: 1 << 20}
		if i%3 == 2 {
			it = nil
		}
		sh.apply(name, uint64(i+1), it)
	}
	if sh.ringSize > ringBytes || len(sh.ring) > 9 || len(sh.ring) == 0 {
		t.Errorf("the ring holds %d events of %d bytes, want at most %d bytes, and some", len(sh.ring), sh.ringSize, ringBytes)
	}
	if sh.since != sh.ring[0].rev-1 {
		t.Errorf("events are known since %d, but the first in the ring is %d", sh.since, sh.ring[0].rev)
	}
}

// An object that comes to match a selector is added for that watcher, one that ceases to is deleted.
func TestWatchSelectorTransitions(t *testing.T) {
	s := start(t)
	byLabel := s.watch(t, podsPath+"?labelSelector=app%3Dblue")
	byNode := s.watch(t, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")
	s.createPod(t, "p")
	label := func(to string) {
		s.do(t, "PATCH", podsPath+"/p", `{"metadata":{"labels":{"app":"`+to+`"}}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
	}
	label("blue")
	s.bind(t, "p", "n1").want(t, 201)
	label("red")
	s.do(t, "DELETE", podsPath+"/p?gracePeriodSeconds=0", "").want(t, 200)
	byLabel.want("ADDED p", "MODIFIED p")
	left := byLabel.next()
	if left.String() != "DELETED p" || left.Object.Metadata.Labels["app"] != "blue" {
		t.Errorf("event is %s with labels %v, want DELETED p, as it was when it matched last", left, left.Object.Metadata.Labels)
	}
	byNode.want("ADDED p", "MODIFIED p", "DELETED p")
}

func TestWatchSendsInitialEvents(t *testing.T) {
	s := start(t)
	from := s.write(t)
	for _, rev := range []string{"", "0", from} {
		w := s.watch(t, configMapsPath+"?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion="+rev)
		w.want("ADDED b")
		mark := w.next()
		if mark.Type != "BOOKMARK" || mark.Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey] != "true" || mark.Object.Kind != "ConfigMap" {
			t.Errorf("resourceVersion %q: event is %+v, want a BOOKMARK of kind ConfigMap that ends the initial events", rev, mark)
		}
		s.do(t, "PATCH", configMapsPath+"/b", `{"data":{"x":"`+rev+`y"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
		after := w.next()
		if after.String() != "MODIFIED b" || revision(t, after) <= revision(t, mark) {
			t.Errorf("resourceVersion %q: after the bookmark at %d came %s at %d, want MODIFIED b, later", rev, revision(t, mark), after, revision(t, after))
		}
	}
}

// Who begins at no revision is told of the end of the objects that there are, if bookmarks are allowed and nothing else is said.
func TestWatchMarksTheEndOfWhatThereIs(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	for query, marked := range map[string]bool{
		"allowWatchBookmarks=true":                                 true,
		"allowWatchBookmarks=true&resourceVersion=0":               true,
		"allowWatchBookmarks=true&sendInitialEvents=false":         false,
		"allowWatchBookmarks=false":                                false,
		"sendInitialEvents=true&resourceVersionMatch=NotOlderThan": false,
	} {
		if strings.Contains(query, "sendInitialEvents=false") {
			query += "&resourceVersionMatch=NotOlderThan"
		}
		w := s.watch(t, configMapsPath+"?timeoutSeconds=1&"+query)
		if !strings.Contains(query, "sendInitialEvents=false") {
			w.want("ADDED a")
		}
		if marked {
			if e := w.next(); e.Type != "BOOKMARK" || e.Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
				t.Errorf("%s: %+v, want the bookmark that ends the initial events", query, e)
			}
		}
		w.ended()
	}
}

// A bookmark says how far the watcher is, also where nothing changed that it watches.
func TestWatchBookmarks(t *testing.T) {
	s := start(t)
	sh := s.shelf("configmaps")
	w, _ := sh.watchNow(s.cache)
	defer sh.unregister(w)
	p := s.createPod(t, "p")
	sh.bookmark(s.cache, w)
	ev := <-w.events
	if made, err := parseRevision(p.ResourceVersion); err != nil || ev.kind != watch.Bookmark || ev.rev < made {
		t.Errorf("event is %s at %d, want a bookmark at %s or later (%v)", ev.kind, ev.rev, p.ResourceVersion, err)
	}
}

// Bookmarks come once a minute and before the end, to those who allow them, and never to those who don't.
func TestBookmarksComeByTheMinute(t *testing.T) {
	s := start(t)
	synctest.Test(t, func(t *testing.T) {
		for _, allowed := range []bool{true, false} {
			marks := 0
			sh := newShelf(s.shelf("secrets").resource, nil)
			own := &Server{cache: &cache{}}
			o := watchOptions{bookmarks: allowed, timeout: 3*bookmarkEvery + 30*time.Second}
			err := own.stream(context.Background(), sh, selectAll(sh.resource), o, sinkFunc(func(e event, _ bool) error {
				if e.kind == watch.Bookmark {
					marks++
				}
				return nil
			}))
			if want := map[bool]int{true: 4, false: 0}[allowed]; err != nil || marks != want {
				t.Errorf("allowed %v: %d bookmarks in three and a half minutes, error %v; want %d", allowed, marks, err, want)
			}
		}
	})
}

func TestWatchParametersThatDoNotFit(t *testing.T) {
	s := start(t)
	for _, tc := range []struct {
		query string
		code  int
		part  string
	}{
		{"sendInitialEvents=true", 422, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"},
		{"resourceVersionMatch=NotOlderThan&resourceVersion=1", 422, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"},
		{"resourceVersion=abc", 500, `resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid syntax`},
		{"labelSelector=a%20in", 400, "unable to parse requirement"},
		{"fieldSelector=spec.nope%3D1", 400, "field label not supported: spec.nope"},
		{"timeoutSeconds=soon", 400, ""},
	} {
		a := s.do(t, "GET", podsPath+"?watch=1&"+tc.query, "")
		reason := map[int]metav1.StatusReason{400: metav1.StatusReasonBadRequest, 422: metav1.StatusReasonInvalid}[tc.code]
		a.refused(t, tc.code, reason, tc.part)
	}
	s.do(t, "GET", podsPath+"?watch=1", "", "Accept", typeYAML).want(t, 406)
}

// A watch that is to be over before it begins says so, as in Kubernetes.
func TestWatchWithoutTime(t *testing.T) {
	s := start(t)
	w := s.watch(t, configMapsPath+"?timeoutSeconds=-1")
	if e := w.next(); e.Type != "ERROR" || e.Object.Code != 500 || e.Object.Message != "context deadline exceeded" {
		t.Errorf("event is %+v, want ERROR with 500", e)
	}
	w.ended()
}

func TestWatchTimeout(t *testing.T) {
	t.Parallel()
	s := start(t)
	began := time.Now()
	w := s.watch(t, configMapsPath+"?timeoutSeconds=1")
	w.ended()
	if took := time.Since(began); took < time.Second {
		t.Errorf("the watch lasted %s, want 1s", took)
	}
}

// All watchers of a resource see the same events in the same order, however many write at once.
func TestWatchersAgree(t *testing.T) {
	s := start(t)
	from := s.write(t)
	const watchers, writers, each = 8, 8, 10
	var lists [watchers][]string
	var all sync.WaitGroup
	for i := range watchers {
		w := s.watch(t, configMapsPath+"?resourceVersion="+from)
		all.Go(func() {
			for range 4 + writers*each { // Those of write, and those below.
				var e seen
				if err := w.in.Decode(&e); err != nil {
					t.Errorf("watcher %d: %v", i, err)
					return
				}
				lists[i] = append(lists[i], e.String()+" "+e.Object.Metadata.ResourceVersion)
			}
		})
	}
	for i := range writers {
		all.Go(func() {
			for j := range each {
				a := s.do(t, "PATCH", configMapsPath+"/b", fmt.Sprintf(`{"data":{"w%d":"%d"}}`, i, j), "Content-Type", "application/merge-patch+json")
				if a.code != 200 {
					t.Errorf("writer %d: %s", i, a.body)
				}
			}
		})
	}
	all.Wait()
	for i := range lists {
		if diff := cmp.Diff(lists[0], lists[i]); diff != "" {
			t.Fatalf("watcher %d saw something else than watcher 0 (-0 +%d):\n%s", i, i, diff)
		}
	}
	b := parse[corev1.ConfigMap](t, s.do(t, "GET", configMapsPath+"/b", ""))
	for i := range writers {
		if got := b.Data[fmt.Sprintf("w%d", i)]; got != strconv.Itoa(each-1) {
			t.Errorf("the last patch of writer %d is lost: its field is %q", i, got)
		}
	}
}

// A watcher that does not read is cut off, and holds nobody back.
func TestSlowWatcherIsCutOff(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "b")
	slow := s.watch(t, configMapsPath)
	slow.want("ADDED b") // It reads no further.
	sh := s.shelf("configmaps")
	it := sh.get("default/b")
	frame, err := it.frame(typeJSON, watch.Modified)
	if err != nil {
		t.Fatal(err)
	}
	most := watchBacklog + gathered/len(frame) + 2 // In its queue, put together to be written, and being written.
	for i := range most + 10 {
		sh.apply(it.key, it.rev+uint64(i)+1, it)
	}
	sh.mu.RLock()
	left := len(sh.watchers)
	sh.mu.RUnlock()
	if left != 0 {
		t.Fatalf("%d watchers are left, want the slow one to be cut off", left)
	}
	n := 0
	for ; slow.in.Decode(&seen{}) == nil; n++ {
	}
	if n < watchBacklog || n > most {
		t.Errorf("the slow watcher got %d events before its watch ended, want those that were queued for it: %d to %d", n, watchBacklog, most)
	}
}

func TestWatchAsTable(t *testing.T) {
	s := start(t)
	w := s.watch(t, podsPath, "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	s.createPod(t, "p")
	s.do(t, "DELETE", podsPath+"/p", "").want(t, 200)
	for i, kind := range []string{"ADDED", "DELETED"} {
		var e struct {
			Type   string
			Object metav1.Table
		}
		if err := w.in.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Type != kind || e.Object.Kind != "Table" || len(e.Object.Rows) != 1 || e.Object.Rows[0].Cells[0] != "p" {
			t.Errorf("event %d is %+v, want %s with a row of pod p", i, e, kind)
		}
		if has := len(e.Object.ColumnDefinitions) > 0; has != (i == 0) {
			t.Errorf("event %d has column definitions: %v; want them in the first only", i, has)
		}
	}
}

func TestWatchInProtobuf(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	in := bufio.NewReader(s.stream(t, podsPath, "Accept", typeProto+";stream=watch"))
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(in, frame); err != nil {
		t.Fatal(err)
	}
	var e metav1.WatchEvent
	if err := e.Unmarshal(frame); err != nil {
		t.Fatal(err)
	}
	obj, _, err := protoSerializer.Decode(e.Object.Raw, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := obj.(*corev1.Pod); !ok || e.Type != "ADDED" || p.Name != "p" {
		t.Errorf("the frame is %s %T %v, want ADDED of pod p", e.Type, obj, obj)
	}
}

// A watch on which nothing happens for longer than a frame may take lives on: the timer runs only while one is written.
func TestIdleWatchOutlivesFrameTimeout(t *testing.T) {
	s := start(t)
	w := &eventWriter{w: httptest.NewRecorder(), r: httptest.NewRequest(http.MethodGet, configMapsPath+"?watch=1", nil), server: s.Server, shelf: s.shelf("configmaps"), format: format{media: typeJSON}}
	w.start()
	if w.stuck.Stop() {
		t.Error("the timer runs before the first frame")
	}
	if err := errors.Join(w.emit(event{kind: watch.Bookmark, rev: 1}, false), w.flush()); err != nil {
		t.Fatal(err)
	}
	if w.stuck.Stop() {
		t.Error("the timer runs on after a frame")
	}
}

// Informers, which all components stand on, follow the server through HTTP and directly.
func TestInformers(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "old")
	byHTTP := informers.NewSharedInformerFactory(s.client(t, administrator, typeProto), 0).Core().V1().ConfigMaps().Informer()
	direct := informer.NewSharedIndexInformer(s.ListerWatcher(&corev1.ConfigMap{}), &corev1.ConfigMap{}, 0, informer.Indexers{})
	for name, inf := range map[string]informer.SharedIndexInformer{"HTTP": byHTTP, "direct": direct} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			events := make(chan string, 10)
			_, err := inf.AddEventHandler(informer.ResourceEventHandlerFuncs{
				AddFunc:    func(obj any) { events <- "add " + obj.(*corev1.ConfigMap).Name },
				UpdateFunc: func(_, obj any) { events <- "update " + obj.(*corev1.ConfigMap).Name },
				DeleteFunc: func(obj any) { events <- "delete " + obj.(*corev1.ConfigMap).Name },
			})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { defer close(done); inf.Run(ctx.Done()) }()
			if !informer.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
				t.Fatal("the informer did not sync")
			}
			s.createConfigMap(t, "new")
			s.do(t, "PATCH", configMapsPath+"/new", `{"data":{"a":"2"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
			s.do(t, "DELETE", configMapsPath+"/new", "").want(t, 200)
			var got []string
			for len(got) < 4 {
				select {
				case e := <-events:
					got = append(got, e)
				case <-ctx.Done():
					t.Fatalf("only these events came: %v", got)
				}
			}
			if diff := cmp.Diff([]string{"add old", "add new", "update new", "delete new"}, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			cancel()
			<-done
		})
	}
}

// An informer in the server's process can't have a selector: it would be ignored.
func TestListerWatcherRefusesSelectors(t *testing.T) {
	s := start(t)
	lw := s.ListerWatcher(&corev1.Pod{})
	if _, err := lw.List(metav1.ListOptions{LabelSelector: "a=b"}); err == nil {
		t.Error("List with a selector succeeds")
	}
	if _, err := lw.Watch(metav1.ListOptions{FieldSelector: "a=b"}); err == nil {
		t.Error("Watch with a selector succeeds")
	}
}

// What the server shares with informers is what it holds, and never changes under them.
func TestWritesDoNotChangeWhatWasRead(t *testing.T) {
	s := start(t)
	s.do(t, "POST", deployments, deploymentJSON("web")).want(t, 201)
	s.createPod(t, "p")
	s.do(t, "POST", servicesPath, serviceJSON("svc", "")).want(t, 201)
	var objects, copies []runtime.Object
	for _, sh := range s.cache.resources {
		for _, it := range sh.state(s.cache).items(selectAll(sh.resource)) {
			objects, copies = append(objects, it.obj), append(copies, it.obj.DeepCopyObject())
		}
	}
	merge := []string{"Content-Type", "application/merge-patch+json"}
	s.do(t, "PATCH", deployments+"/web", `{"spec":{"replicas":3},"metadata":{"annotations":{"a":"b"}}}`, merge...).want(t, 200)
	s.do(t, "PATCH", deployments+"/web/status", `{"status":{"replicas":3}}`, merge...).want(t, 200)
	s.do(t, "PATCH", deployments+"/web/scale", `{"spec":{"replicas":5}}`, merge...).want(t, 200)
	s.bind(t, "p", "n1").want(t, 201)
	s.do(t, "PATCH", podsPath+"/p/status", `{"status":{"phase":"Running"}}`, merge...).want(t, 200)
	s.do(t, "PATCH", servicesPath+"/svc", `{"spec":{"type":"NodePort"}}`, merge...).want(t, 200)
	s.do(t, "PATCH", servicesPath+"/svc", `{"spec":{"type":"ClusterIP"}}`, merge...).want(t, 200)
	s.do(t, "PUT", servicesPath+"/svc", serviceJSON("svc", "")).want(t, 200)
	s.do(t, "DELETE", podsPath+"/p", "").want(t, 200)
	s.do(t, "DELETE", deployments+"/web?propagationPolicy=Foreground", "").want(t, 200)
	for i := range objects {
		if diff := cmp.Diff(copies[i], objects[i]); diff != "" {
			t.Errorf("a write changed an object that readers hold (-before +after):\n%s", diff)
		}
	}
}

// The server whose memory the store has left behind reads it anew, and tells its watchers to do the same.
func TestServerThatFellBehind(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "stays")
	s.createConfigMap(t, "goes")
	w := s.watch(t, configMapsPath)
	w.want("ADDED goes", "ADDED stays")
	before := s.cache.revision()

	// What the server does when the store answers ErrCompacted.
	if err := s.cache.load(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.ended()
	s.createConfigMap(t, "new")
	list := parse[corev1.ConfigMapList](t, s.do(t, "GET", configMapsPath, ""))
	var names []string
	for _, c := range list.Items {
		names = append(names, c.Name)
	}
	if want := []string{"goes", "new", "stays"}; !slices.Equal(names, want) {
		t.Errorf("ConfigMaps are %v, want %v", names, want)
	}
	again := s.watch(t, configMapsPath+fmt.Sprintf("?resourceVersion=%d", before-1))
	if e := again.next(); e.Type != "ERROR" || e.Object.Code != 410 {
		t.Errorf("event is %+v, want 410", e)
	}
}
