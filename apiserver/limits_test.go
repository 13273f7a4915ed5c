package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %s: %s", patience, what)
		}
	}
}

// protocols are clients of a server that speak HTTP/1.1 and HTTP/2.
func protocols(web *httptest.Server) map[string]*http.Client {
	h1 := web.Client().Transport.(*http.Transport).Clone()
	h1.ForceAttemptHTTP2 = false
	h1.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	h1.TLSClientConfig.NextProtos = []string{"http/1.1"}
	return map[string]*http.Client{"HTTP/1.1": {Transport: h1}, "HTTP/2.0": web.Client()}
}

// send makes a request over a socket.
func send(t testing.TB, c *http.Client, method, url string, body io.Reader) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", typeJSON)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, data}
}

// Requests that change something have a pool of their own, and the components of this process none.
func TestLimitOfRequestsInFlight(t *testing.T) {
	s := start(t)
	s.limits.changing = make(chan struct{}, 1)
	web := s.web(t)
	slow, body := io.Pipe()
	first := make(chan answer, 1)
	go func() { first <- send(t, web.Client(), "POST", web.URL+configMapsPath, slow) }()
	eventually(t, "the first request has the slot", func() bool { return len(s.limits.changing) == 1 })

	second := send(t, web.Client(), "POST", web.URL+configMapsPath, strings.NewReader(configMapJSON("b")))
	second.refused(t, 429, metav1.StatusReasonTooManyRequests, "the server has received too many requests and has asked us to try again later")
	if got := second.header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q, want 1", got)
	}
	if a := send(t, web.Client(), "GET", web.URL+"/metrics", nil); !strings.Contains(string(a.body), `apiserver_request_total{code="429",component="apiserver",group="",resource="",scope="",subresource="",verb="POST",version=""} 1`) {
		t.Errorf("the refused request is not counted in %s", a.body)
	}
	send(t, web.Client(), "GET", web.URL+configMapsPath, nil).want(t, 200)
	s.createConfigMap(t, "c")

	fmt.Fprint(body, configMapJSON("a"))
	body.Close()
	(<-first).want(t, 201)
	send(t, web.Client(), "POST", web.URL+configMapsPath, strings.NewReader(configMapJSON("b"))).want(t, 201)
}

// Who may do nothing but ask about himself cannot take the slots of others by it.
func TestLimitOfBodiesOfOneUser(t *testing.T) {
	s := start(t)
	s.limits.changing = make(chan struct{}, 8)
	as := func(u User) *httptest.Server {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.ServeHTTP(w, r.WithContext(withUser(r.Context(), u)))
		}))
		t.Cleanup(web.Close)
		return web
	}
	one, other := as(User{Name: "one", Groups: []string{authenticated}}), as(User{Name: "other", Groups: []string{authenticated}})
	ask := func(web *httptest.Server, body io.Reader) answer {
		return send(t, web.Client(), "POST", web.URL+"/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
	}
	var slow []*io.PipeWriter
	answers := make(chan answer, 2)
	for range 2 {
		body, w := io.Pipe()
		slow = append(slow, w)
		go func() { answers <- ask(one, body) }()
	}
	sending := func() int {
		s.limits.senders.mu.Lock()
		defer s.limits.senders.mu.Unlock()
		return s.limits.senders.bodies["one"]
	}
	eventually(t, "two bodies of one user are waited for", func() bool { return sending() == 2 })
	ask(one, strings.NewReader("{}")).refused(t, 429, metav1.StatusReasonTooManyRequests, "the server has received too many requests")
	ask(other, strings.NewReader("{}")).want(t, 201)
	for _, w := range slow {
		fmt.Fprint(w, "{}")
		w.Close()
		(<-answers).want(t, 201)
	}
	ask(one, strings.NewReader("{}")).want(t, 201)
	if n := sending(); n != 0 {
		t.Errorf("%d bodies are still counted", n)
	}
}

// A body that does not come ends its request, and no other one on the connection.
func TestLimitOfTimeForBody(t *testing.T) {
	t.Parallel()
	s := start(t)
	web := s.web(t)
	for _, client := range protocols(web) {
		s.limits.request = 2 * time.Second // As long is left to answer then.
		body, slow := io.Pipe()
		go fmt.Fprint(slow, `{"kind":`)
		send(t, client, "POST", web.URL+configMapsPath, body).refused(t, 504, metav1.StatusReasonTimeout, "the request's body did not come in time")
		eventually(t, "the slot is free again", func() bool { return len(s.limits.changing) == 0 })
		s.limits.request = time.Minute
		for range 2 {
			send(t, client, "PUT", web.URL+configMapsPath+"/none", strings.NewReader(configMapJSON("none"))).want(t, 404)
			send(t, client, "GET", web.URL+configMapsPath, nil).want(t, 200)
		}
	}
}

// Who asks is known only when the path has been looked up: until then a request that may last is bounded as others are.
func TestLimitOfTimeForBodyOfStrangers(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.limits.request = 2 * time.Second // As long is left to answer then.
	web := httptest.NewServer(s)
	t.Cleanup(web.CloseClientConnections)
	for _, request := range []string{
		"POST " + podsPath + "/p/log", "POST " + podsPath + "/p/exec", "POST " + podsPath + "/p/proxy", "GET " + podsPath + "?watch=1", "POST " + podsPath,
	} {
		conn, err := net.Dial("tcp", web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", request)
		answer, err := io.ReadAll(conn)
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 401 ")) {
			t.Errorf("%s without its body: answered with %q, %v; want 401 and the end of the connection", request, answer, err)
		}
	}
}

func TestLimitOfBody(t *testing.T) {
	s := start(t)
	padded := strings.Replace(configMapJSON("big"), `"1"`, `"`+strings.Repeat("x", maxBody)+`"`, 1)
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		path, media := configMapsPath, typeJSON
		switch method {
		case "PUT", "DELETE":
			path += "/big"
		case "PATCH":
			path, media = path+"/big", merge[1]
		}
		s.do(t, method, path, padded, "Content-Type", media).refused(t, 413, metav1.StatusReasonRequestEntityTooLarge, "Request entity too large: limit is 3145728")
	}
	web := s.web(t)
	for _, client := range protocols(web) {
		unannounced := io.MultiReader(strings.NewReader(padded)) // No length is known of it.
		send(t, client, "POST", web.URL+configMapsPath, unannounced).want(t, 413)
	}
}

func TestLimitOfObject(t *testing.T) {
	s := start(t)
	value := strings.Repeat("x", 1000<<10)
	object := `{"metadata":{"name":"big","annotations":{"a":"` + value[:200<<10] + `"}},"data":{"a":"` + value + `"},"binaryData":{"b":"` + value[:400<<10] + `"}}`
	a := s.do(t, "POST", configMapsPath, object)
	if a.code != 413 && a.code != 422 {
		t.Errorf("an object beyond its limits is answered with %d", a.code)
	}
	s.createPod(t, "p")
	pod := s.pod(t, "p")
	pod.Status.Message = strings.Repeat("x", maxObject)
	s.do(t, "PUT", podsPath+"/p/status", toJSON(t, pod)).refused(t, 413, metav1.StatusReasonRequestEntityTooLarge, "limit is 1572864")
}

func TestCompressedBodyIsRefused(t *testing.T) {
	s := start(t)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 10<<20))
	_ = z.Close()
	s.do(t, "POST", configMapsPath, bomb.String(), "Content-Encoding", "gzip").refused(t, 415, metav1.StatusReasonUnsupportedMediaType, `Content-Encoding was "gzip"`)
	s.do(t, "POST", configMapsPath, configMapJSON("a"), "Content-Encoding", "identity").want(t, 201)
}

func TestLimitOfDepth(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	deep := func(open, end string, levels int) string {
		return strings.Repeat(open, levels) + strings.Repeat(end, levels)
	}
	for _, levels := range []int{maxDepth + 1, 1 << 20} {
		lists, objects := deep("[", "]", levels), strings.Repeat(`{"a":`, levels)+"1"+strings.Repeat("}", levels)
		for _, body := range []string{lists, objects, `{"metadata":{"name":"a"},"data":` + lists + `}`} {
			if len(body) > maxBody {
				continue
			}
			for _, media := range []string{typeJSON, "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"} {
				method, path := "PATCH", configMapsPath+"/a"
				if media == typeJSON {
					method, path = "POST", configMapsPath
				}
				s.do(t, method, path, body, "Content-Type", media).refused(t, 400, metav1.StatusReasonBadRequest, "the request's body has more than 1000 levels")
			}
			if a := s.do(t, "POST", configMapsPath, body, "Content-Type", typeYAML); a.code != 400 && a.code != 422 {
				t.Errorf("%d levels of YAML are answered with %d", levels, a.code)
			}
		}
	}
	s.do(t, "PATCH", configMapsPath+"/a", `{"data":{"a":"`+strings.Repeat(`[{\"`, 2*maxDepth)+`"}}`, merge...).want(t, 200)
}

// A message within a message within a message: decoding each takes room on the stack, of which there is an end.
func TestLimitOfDepthInProtobuf(t *testing.T) {
	s := start(t)
	post := func(levels int) answer {
		return s.do(t, "POST", definitionsPath, nestedSchema(t, levels), "Content-Type", typeProto)
	}
	post(500_000).refused(t, 400, metav1.StatusReasonBadRequest, "the request's body has more than 1000 levels")
	post(maxDepth/2).refused(t, 422, metav1.StatusReasonInvalid, "spec.group: Required value")
}

// "A billion laughs": aliases that stand for lists of aliases.
func TestLimitOfAliases(t *testing.T) {
	s := start(t)
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	s.do(t, "POST", configMapsPath, bomb.String(), "Content-Type", typeYAML).refused(t, 400, metav1.StatusReasonBadRequest, "excessive aliasing")
}

// Whoever waits for what never comes leaves nothing behind.
func TestRevisionThatNeverComes(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 10)
	for i := range 10 {
		go func() { ended <- s.cache.wait(ctx, 1<<60+uint64(i/2)) }()
	}
	waiting := func() int {
		s.cache.mu.Lock()
		defer s.cache.mu.Unlock()
		return len(s.cache.waiting)
	}
	eventually(t, "all wait", func() bool { return waiting() == 5 })
	cancel()
	for range 10 {
		if err := <-ended; err != context.Canceled {
			t.Errorf("wait: %v", err)
		}
	}
	if n := waiting(); n != 0 {
		t.Errorf("%d revisions are still waited for", n)
	}
}

// A client that stops reading is cut off; nobody else notices.
func TestClientThatStopsReading(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.limits.frame = 2 * time.Second
	s.limits.request = 2 * time.Second // Twice that is for the answer, of which the client must see the beginning.
	web := s.web(t)
	big := strings.Repeat("x", 900<<10)
	for i := range 20 {
		s.do(t, "POST", configMapsPath, strings.Replace(configMapJSON(fmt.Sprintf("c%d", i)), `"1"`, `"`+big+`"`, 1)).want(t, 201)
	}
	watchers := func() int {
		sh := s.shelf("configmaps")
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return len(sh.watchers)
	}
	for name, client := range protocols(web) {
		client.Transport.(*http.Transport).DisableCompression = true
		for _, query := range []string{"", "?watch=true"} {
			resp, err := client.Get(web.URL + configMapsPath + query)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := resp.Body.Read(make([]byte, 1)); err != nil { // From then on the server has it among those it serves.
				t.Fatal(err)
			}
			eventually(t, name+query+": the server has given up the client", func() bool { return len(s.limits.reading) == 0 && watchers() == 0 })
			if _, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Errorf("%s: the client got everything; the test shows nothing", name)
			}
			resp.Body.Close()
		}
	}
}

func TestSelectorsOfThousandsOfTerms(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	var labels, fields []string
	for i := range 3000 {
		labels = append(labels, fmt.Sprintf("l%d!=x", i))
		fields = append(fields, fmt.Sprintf("metadata.name!=n%d", i))
	}
	a := s.do(t, "GET", podsPath+"?labelSelector="+strings.Join(labels, ",")+"&fieldSelector="+strings.Join(fields, ","), "").want(t, 200)
	if n := len(parse[metav1.PartialObjectMetadataList](t, a).Items); n != 1 {
		t.Errorf("%d pods, want 1", n)
	}
	s.do(t, "GET", podsPath+"?labelSelector="+strings.Repeat("(", 3000), "").refused(t, 400, metav1.StatusReasonBadRequest)
}

// A query that cannot be read in full is refused: passed over, a selector would leave a deletion without bounds.
func TestQueryThatCannotBeRead(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	for _, query := range []string{"labelSelector=a%3Db" + strings.Repeat("&a=1", 12000), "labelSelector=%zz", "labelSelector=a;b"} {
		s.do(t, "DELETE", configMapsPath+"?"+query, "").refused(t, 400, metav1.StatusReasonBadRequest, "the query cannot be read")
	}
	s.do(t, "GET", configMapsPath+"/a?"+strings.Repeat("a=1&", 9000), "").want(t, 200)
}

// What a client is warned of it has named itself: the headers of the answer do not grow with it.
func TestLimitOfWarnings(t *testing.T) {
	s := start(t)
	long := strings.Repeat("x", 100<<10)
	var many strings.Builder
	for i := range 200 {
		fmt.Fprintf(&many, `"unknown-field-number-%d":1,`, i)
	}
	for _, fields := range []string{many.String(), `"` + long + `":1,` + many.String(), many.String() + `"` + long + `":1,`} {
		a := s.do(t, "POST", configMapsPath+"?dryRun=All", `{`+fields+`"metadata":{"name":"a"}}`).want(t, 201)
		size := 0
		for _, text := range a.header["Warning"] {
			size += len(text)
		}
		if size < 3000 || size > 5000 {
			t.Errorf("%d warnings have %d bytes", len(a.header["Warning"]), size)
		}
	}
}

// However a list or map comes, it may not have more members than can be kept account of.
func TestLimitOfMembers(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	member, keys := map[string]string{}, []string{}
	for i := range maxMembers + 1 {
		keys = append(keys, fmt.Sprintf("key-%d", i))
		member[keys[i]] = ""
	}
	full := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "b"}, Data: member}
	asJSON, list := toJSON(t, full), toJSON(t, keys)
	for _, tc := range []struct{ method, path, media, body string }{
		{"POST", "", typeJSON, asJSON},
		{"POST", "", typeYAML, asJSON},
		{"POST", "", typeProto, toProto(t, full)},
		{"PATCH", "/a", merge[1], `{"data":` + toJSON(t, member) + `}`},
		{"PATCH", "/a", merge[1], `{"metadata":{"finalizers":` + list + `}}`},
		{"PATCH", "/a", "application/strategic-merge-patch+json", `{"metadata":{"finalizers":` + list + `}}`},
		{"PATCH", "/b?fieldManager=m", "application/apply-patch+yaml", asJSON},
	} {
		s.do(t, tc.method, configMapsPath+tc.path, tc.body, "Content-Type", tc.media).refused(t, 413, metav1.StatusReasonRequestEntityTooLarge, "a list or map has 5000", "limit is 50000")
	}
	for _, key := range keys[1000:] {
		delete(member, key)
	}
	full.BinaryData = map[string][]byte{"bytes": make([]byte, 10*maxMembers)} // Bytes are no list.
	s.do(t, "POST", configMapsPath, toProto(t, full), "Content-Type", typeProto).want(t, 201)
}

// A patch that would take seconds is refused before it is begun.
func TestLimitOfPatches(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	list := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format+",", i)
		}
		return "[" + strings.TrimSuffix(b.String(), ",") + "]"
	}
	const strategic, operations = "application/strategic-merge-patch+json", "application/json-patch+json"
	containers := func(n int) string { return `{"spec":{"containers":` + list(n, `{"name":"c%d"}`) + `}}` }
	s.do(t, "PATCH", podsPath+"/p", containers(3000), "Content-Type", strategic).refused(t, 413, metav1.StatusReasonRequestEntityTooLarge, "too many objects to merge", "the allowed maximum is 4000000")
	lists := `{"spec":{"containers":[` + strings.TrimSuffix(strings.Repeat(`{"name":"c","env":`+list(1500, `{"name":"e%d"}`)+`},`, 3), ",") + `]}}`
	s.do(t, "PATCH", podsPath+"/p", lists, "Content-Type", strategic).refused(t, 413, metav1.StatusReasonRequestEntityTooLarge)
	s.do(t, "PATCH", podsPath+"/p", `{"metadata":{"annotations":{"a":"`+strings.Repeat("[{},", 20000)+`"}}}`, "Content-Type", strategic).want(t, 200)

	inserts := strings.TrimPrefix(list(1000, `{"op":"add","path":"/x/0","value":%d}`), "[")
	long := `[{"op":"add","path":"/x","value":` + list(300_000, "%d") + `},` + inserts
	s.do(t, "PATCH", podsPath+"/p", long, "Content-Type", operations).refused(t, 413, metav1.StatusReasonRequestEntityTooLarge, "too long lists", "the allowed maximum is 200000000")
	short := `[{"op":"add","path":"/x","value":` + list(10_000, "%d") + `},` + inserts
	s.do(t, "PATCH", podsPath+"/p", short, "Content-Type", operations).want(t, 200)
}

func TestSubresourceOfPath(t *testing.T) {
	for path, want := range map[string]string{
		"/api/v1/namespaces/default/pods/p/log":              "log",
		"/api/v1/namespaces/default/services/s:80/proxy/a/b": "proxy",
		"/api/v1/nodes/n/proxy":                              "proxy",
		"/api/v1/namespaces/default/status":                  "status",
		"/api/v1/namespaces/default/finalize":                "finalize",
		"/api/v1/namespaces/default/pods/proxy":              "",
		"/apis/apps/v1/namespaces/d/deployments/d/scale":     "scale",
		"/apis/example.com/v1/things/t/exec":                 "exec",
		"/apis":                                              "",
		"/":                                                  "",
		"/api/v1":                                            "",
	} {
		if got := subresourceOf(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
