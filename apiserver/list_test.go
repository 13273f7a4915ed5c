package apiserver

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/pager"
)

func (s *running) list(t testing.TB, query string) *corev1.ConfigMapList {
	t.Helper()
	return parse[corev1.ConfigMapList](t, s.do(t, "GET", configMapsPath+"?"+query, "").want(t, 200))
}

func names(list *corev1.ConfigMapList) []string {
	out := []string{}
	for _, c := range list.Items {
		out = append(out, c.Name)
	}
	return out
}

// All pages of a list are of one moment, whatever is written between them.
func TestListInPages(t *testing.T) {
	s := start(t)
	for i := range 5 {
		s.createConfigMap(t, fmt.Sprintf("c%d", i))
	}
	first := s.list(t, "limit=2")
	if diff := cmp.Diff([]string{"c0", "c1"}, names(first)); diff != "" || first.Continue == "" || first.RemainingItemCount == nil || *first.RemainingItemCount != 3 {
		t.Fatalf("first page: %+v; want c0 and c1, three more and a token", first.ListMeta)
	}
	s.do(t, "DELETE", configMapsPath+"/c2", "").want(t, 200)
	s.createConfigMap(t, "c3a")
	s.do(t, "PATCH", configMapsPath+"/c4", `{"data":{"a":"new"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)

	second := s.list(t, "limit=2&continue="+url.QueryEscape(first.Continue))
	if diff := cmp.Diff([]string{"c2", "c3"}, names(second)); diff != "" || *second.RemainingItemCount != 1 {
		t.Errorf("second page (-want +got):\n%s", diff)
	}
	third := s.list(t, "limit=2&continue="+url.QueryEscape(second.Continue))
	if diff := cmp.Diff([]string{"c4"}, names(third)); diff != "" || third.Continue != "" || third.RemainingItemCount != nil || third.Items[0].Data["a"] != "1" {
		t.Errorf("third page is %+v, want c4 as it was at first, and no further page; (-want +got):\n%s", third, diff)
	}
	if first.ResourceVersion != second.ResourceVersion || first.ResourceVersion != third.ResourceVersion {
		t.Errorf("the pages are of revisions %s, %s, %s; want one", first.ResourceVersion, second.ResourceVersion, third.ResourceVersion)
	}
	if p := s.list(t, "limit=1&labelSelector=%21nope"); p.RemainingItemCount != nil || p.Continue == "" {
		t.Errorf("with a selector: %+v, want no count, and a token", p.ListMeta)
	}
}

// What a limit means beside a resourceVersion:
// https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list
func TestListInPagesFromResourceVersion(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	s.createConfigMap(t, "b")
	last := s.createConfigMap(t, "c").ResourceVersion
	for query, want := range map[string][]string{
		"limit=1&resourceVersion=0":                                         {"a", "b", "c"},
		"limit=1&resourceVersion=0&resourceVersionMatch=NotOlderThan":       {"a", "b", "c"},
		"limit=1&resourceVersion=" + last:                                   {"a"},
		"limit=2&resourceVersionMatch=Exact&resourceVersion=" + last:        {"a", "b"},
		"limit=2&resourceVersionMatch=NotOlderThan&resourceVersion=" + last: {"a", "b"},
		"resourceVersion=" + last:                                           {"a", "b", "c"},
	} {
		if diff := cmp.Diff(want, names(s.list(t, query))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
}

// A token whose moment is over is refused with one from which the client may go on.
func TestExpiredContinue(t *testing.T) {
	s := start(t)
	for i := range 3 {
		s.createConfigMap(t, fmt.Sprintf("c%d", i))
	}
	first := s.list(t, "limit=1")
	s.snapshots.mu.Lock()
	for i := range s.snapshots.kept {
		s.snapshots.kept[i].expires = time.Now().Add(-time.Second)
	}
	s.snapshots.mu.Unlock()
	s.createConfigMap(t, "c1a")
	s.forgetThePast("configmaps")
	a := s.do(t, "GET", configMapsPath+"?limit=1&continue="+url.QueryEscape(first.Continue), "")
	a.refused(t, 410, metav1.StatusReasonExpired, "The provided continue parameter is too old")
	fresh := parse[metav1.Status](t, a).Continue
	if diff := cmp.Diff([]string{"c1", "c1a", "c2"}, names(s.list(t, "continue="+url.QueryEscape(fresh)))); diff != "" {
		t.Errorf("with the new token (-want +got):\n%s", diff)
	}
	s.do(t, "GET", configMapsPath+"?continue=garbage", "").refused(t, 400, metav1.StatusReasonBadRequest, "continue key is not valid")
	s.do(t, "GET", configMapsPath+"?resourceVersion=1&continue=garbage", "").refused(t, 400, metav1.StatusReasonBadRequest, "continue key is not valid")
	s.do(t, "GET", configMapsPath+"?resourceVersion=1&continue="+url.QueryEscape(fresh), "").
		refused(t, 400, metav1.StatusReasonBadRequest, "specifying resource version is not allowed when using continue")
}

// The states that are kept for pages are bounded, and one that is used again is not kept twice.
func TestSnapshotsAreBounded(t *testing.T) {
	s := start(t)
	for i := range 3 {
		s.createConfigMap(t, fmt.Sprintf("c%d", i))
	}
	for range 5 {
		s.list(t, "limit=1")
	}
	if n := len(s.snapshots.kept); n != 1 {
		t.Errorf("five lists of one moment keep %d states, want 1", n)
	}
	for i := range snapshotsMax + 5 {
		s.snapshots.keep(s.shelf("configmaps"), state{to: uint64(1000 + i)})
	}
	if n := len(s.snapshots.kept); n != snapshotsMax {
		t.Errorf("%d states are kept, want %d", n, snapshotsMax)
	}
}

// The objects that only snapshots still have are bounded in bytes: the oldest snapshots go, but never the newest.
func TestSnapshotsDoNotHoldMuchOfThePast(t *testing.T) {
	s := start(t)
	s.snapshots.most = 50 << 10
	for i := range 2 {
		s.createConfigMap(t, fmt.Sprintf("c%d", i))
	}
	var tokens []string
	for i := range 5 {
		s.do(t, "PATCH", configMapsPath+"/c0", `{"data":{"a":"`+strings.Repeat(strconv.Itoa(i), 20<<10)+`"}}`, merge...).want(t, 200)
		tokens = append(tokens, s.list(t, "limit=1").Continue)
	}
	s.forgetThePast("configmaps")
	for i, code := range []int{410, 410, 200, 200, 200} { // Since the third two versions have gone, since the second three.
		s.do(t, "GET", configMapsPath+"?limit=1&continue="+url.QueryEscape(tokens[i]), "").want(t, code)
	}
	for range 20 { // Versions that no snapshot has.
		s.do(t, "PATCH", configMapsPath+"/c1", `{"data":{"a":"`+strings.Repeat("x", 20<<10)+`"}}`, merge...).want(t, 200)
		s.do(t, "PATCH", configMapsPath+"/c1", `{"data":{"a":"y"}}`, merge...).want(t, 200)
	}
	s.do(t, "GET", configMapsPath+"?limit=1&continue="+url.QueryEscape(tokens[4]), "").want(t, 200)
}

// What is kept for pages goes when its time is over, whether somebody lists again or not.
func TestSnapshotsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k snapshots
		sh := &shelf{nil, &stock{}}
		count := func() int {
			k.mu.Lock()
			defer k.mu.Unlock()
			return len(k.kept)
		}
		for rev := range uint64(2) {
			k.keep(sh, state{to: 1 + rev})
			time.Sleep(snapshotLife / 2)
		}
		for want := 1; want >= 0; want-- {
			synctest.Wait()
			if n := count(); n != want {
				t.Errorf("%d states are kept, want %d", n, want)
			}
			time.Sleep(snapshotLife / 2)
		}
		k.keep(sh, state{to: 3})
		time.Sleep(snapshotLife)
		synctest.Wait()
		if n := count(); n != 0 {
			t.Errorf("%d states are kept of a list that began when all others had gone, want none", n)
		}
	})
}

func TestClientPager(t *testing.T) {
	s := start(t)
	for i := range 7 {
		s.createConfigMap(t, fmt.Sprintf("c%d", i))
	}
	c := s.client(t, administrator, typeProto)
	p := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (r runtime.Object, err error) {
		return c.CoreV1().ConfigMaps("default").List(context.Background(), o)
	}))
	p.PageSize = 3
	n := 0
	if err := p.EachListItem(context.Background(), metav1.ListOptions{}, func(runtime.Object) error { n++; return nil }); err != nil || n != 7 {
		t.Errorf("the pager came to %d objects, error %v; want 7", n, err)
	}
}

func TestListAtRevision(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	old := s.list(t, "")
	s.createPod(t, "elsewhere") // The store goes on; the ConfigMaps are as they were.
	exact := "&resourceVersionMatch=Exact&resourceVersion="
	same := s.list(t, exact+old.ResourceVersion)
	if same.ResourceVersion != old.ResourceVersion || len(same.Items) != 1 {
		t.Errorf("Exact: %d items at %s, want 1 at %s", len(same.Items), same.ResourceVersion, old.ResourceVersion)
	}
	s.createConfigMap(t, "b")
	if past := s.list(t, exact+old.ResourceVersion); past.ResourceVersion != old.ResourceVersion || len(past.Items) != 1 {
		t.Errorf("Exact, after another came: %v at %s, want a at %s", names(past), past.ResourceVersion, old.ResourceVersion)
	}
	for _, query := range []string{"", "resourceVersion=0", "resourceVersion=" + old.ResourceVersion, "resourceVersionMatch=NotOlderThan&resourceVersion=" + old.ResourceVersion} {
		if got := s.list(t, query); len(got.Items) != 2 || !later(t, got.ResourceVersion, old.ResourceVersion) {
			t.Errorf("%s: %v at %s, want a and b, later than %s", query, names(got), got.ResourceVersion, old.ResourceVersion)
		}
	}
	get := func(query string) answer { return s.do(t, "GET", configMapsPath+"?"+query, "") }
	s.forgetThePast("configmaps")
	get(exact+old.ResourceVersion).refused(t, 410, metav1.StatusReasonExpired, "too old resource version: "+old.ResourceVersion)
	get("resourceVersionMatch=Exact").refused(t, 422, metav1.StatusReasonInvalid, "resourceVersionMatch is forbidden unless resourceVersion is provided")
	get("resourceVersionMatch=Exact&resourceVersion=0").refused(t, 422, metav1.StatusReasonInvalid, `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`)
	get("resourceVersionMatch=Sideways&resourceVersion=1").refused(t, 422, metav1.StatusReasonInvalid, "Sideways")
	get("limit=1&resourceVersion="+old.ResourceVersion).refused(t, 410, metav1.StatusReasonExpired, "too old resource version: "+old.ResourceVersion)
	get("resourceVersion=-1").refused(t, 400, metav1.StatusReasonBadRequest, `invalid resource version: resourceVersion: Invalid value: "-1": strconv.ParseUint: parsing "-1": invalid syntax`)
	get("limit=many").refused(t, 400, metav1.StatusReasonBadRequest)
}

// later compares two resourceVersions, which need not have as many digits.
func later(t testing.TB, a, b string) bool {
	t.Helper()
	order, err := resourceversion.CompareResourceVersion(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return order > 0
}

// forgetThePast drops all that is known of a resource but how it is now.
func (s *running) forgetThePast(resource string) {
	sh := s.shelf(resource)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.bound(0, 0)
}

// A list of the past is what a list was then, for as long as the changes since are known; so are its further pages.
func TestListOfThePast(t *testing.T) {
	s := start(t)
	sh := s.shelf("configmaps")
	then := map[string]string{}
	note := func() {
		now := s.list(t, "")
		then[now.ResourceVersion] = toJSON(t, now)
	}
	note()
	for i := range 12 {
		name := fmt.Sprintf("c%d", i%4)
		switch path := configMapsPath + "/" + name; i % 3 {
		case 0:
			s.do(t, "POST", configMapsPath, configMapJSON(name))
		case 1:
			s.do(t, "PATCH", path, fmt.Sprintf(`{"data":{"a":"%d"}}`, i), "Content-Type", "application/merge-patch+json")
		default:
			s.do(t, "DELETE", path, "")
		}
		note()
	}
	sizes := sh.size
	for rev, want := range then {
		if diff := cmp.Diff(want, toJSON(t, s.list(t, "resourceVersionMatch=Exact&resourceVersion="+rev))); diff != "" {
			t.Errorf("at %s (-then +now):\n%s", rev, diff)
		}
		all := *parse[corev1.ConfigMapList](t, answer{code: 200, body: []byte(want)})
		var paged []string
		for p := s.list(t, "limit=1&resourceVersion="+rev); ; p = s.list(t, "limit=1&continue="+url.QueryEscape(p.Continue)) {
			paged = append(paged, names(p)...)
			if p.Continue == "" {
				break
			}
		}
		if !slices.Equal(paged, names(&all)) {
			t.Errorf("in pages at %s: %v, want %v", rev, paged, names(&all))
		}
	}
	if sh.size != sizes {
		t.Errorf("reading the past changed the size from %d to %d", sizes, sh.size)
	}
}

// A client may have seen a revision that this server is just about to see.
func TestListWaitsForRevision(t *testing.T) {
	t.Parallel()
	s := start(t)
	config := parse[corev1.ConfigMap](t, answer{body: []byte(configMapJSON("a"))})
	config.Namespace = "default"
	data, err := marshalStored(config)
	if err != nil {
		t.Fatal(err)
	}
	rev := uint64(0)
	write := func() {
		if rev, err = s.store.Put(t.Context(), "configmaps/default/a", data, 0); err != nil {
			t.Fatal(err)
		}
	}
	list := s.behind(t, write, func() answer {
		return s.do(t, "GET", configMapsPath+"?resourceVersion="+strconv.FormatUint(rev, 10), "")
	})
	if n := len(parse[corev1.ConfigMapList](t, list.want(t, 200)).Items); n != 1 {
		t.Errorf("the list has %d ConfigMaps, want the one of that revision", n)
	}

	far := strconv.FormatUint(s.cache.revision()+1000, 10)
	a := s.do(t, "GET", configMapsPath+"?resourceVersion="+far, "")
	a.refused(t, 504, metav1.StatusReasonTimeout, "Too large resource version: "+far)
	if c := parse[metav1.Status](t, a).Details.Causes; len(c) != 1 || c[0].Type != metav1.CauseTypeResourceVersionTooLarge {
		t.Errorf("causes are %v, want the one that client-go looks for", c)
	}
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q, want 1", a.header.Get("Retry-After"))
	}
}

func TestFieldSelectors(t *testing.T) {
	s := start(t)
	s.createPod(t, "a")
	s.createPod(t, "b")
	s.bind(t, "b", "n1").want(t, 201)
	for selector, want := range map[string][]string{
		"metadata.name=a":                              {"a"},
		"metadata.namespace=default":                   {"a", "b"},
		"spec.nodeName=n1":                             {"b"},
		"spec.nodeName=":                               {"a"},
		"spec.nodeName!=n1,status.phase=Pending":       {"a"},
		"status.phase=Running":                         nil,
		"spec.nodeName=n1,metadata.namespace!=default": nil,
	} {
		list := parse[corev1.PodList](t, s.do(t, "GET", "/api/v1/pods?fieldSelector="+url.QueryEscape(selector), "").want(t, 200))
		var got []string
		for _, p := range list.Items {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: pods %v, want %v", selector, got, want)
		}
	}
}

// A list stays in its namespace, also where another's name begins with it.
func TestListOfOneNamespace(t *testing.T) {
	s := start(t)
	s.do(t, "POST", "/api/v1/namespaces", `{"metadata":{"name":"default-2"}}`).want(t, 201)
	s.createConfigMap(t, "a")
	s.do(t, "POST", "/api/v1/namespaces/default-2/configmaps", `{"metadata":{"name":"b"}}`).want(t, 201)
	if got := names(s.list(t, "")); !slices.Equal(got, []string{"a"}) {
		t.Errorf("default has %v, want a", got)
	}
	all := parse[corev1.ConfigMapList](t, s.do(t, "GET", "/api/v1/configmaps?limit=1", "").want(t, 200))
	rest := parse[corev1.ConfigMapList](t, s.do(t, "GET", "/api/v1/configmaps?continue="+url.QueryEscape(all.Continue), "").want(t, 200))
	if got := append(names(all), names(rest)...); !slices.Equal(got, []string{"b", "a"}) && !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("all namespaces have %v, want a and b", got)
	}
}

// Large answers are compressed for those who ask, small ones and watches are not.
func TestGzip(t *testing.T) {
	s := start(t)
	big := strings.Repeat("0123456789", 20000)
	s.do(t, "POST", configMapsPath, `{"metadata":{"name":"big"},"data":{"a":"`+big+`"}}`).want(t, 201)
	zipped := s.do(t, "GET", configMapsPath, "", "Accept-Encoding", "gzip").want(t, 200)
	plain := s.do(t, "GET", configMapsPath, "").want(t, 200)
	if zipped.header.Get("Content-Encoding") != "gzip" || len(zipped.body) > len(plain.body)/10 || plain.header.Get("Content-Encoding") != "" {
		t.Errorf("with gzip: %q, %d bytes; without: %q, %d bytes", zipped.header.Get("Content-Encoding"), len(zipped.body), plain.header.Get("Content-Encoding"), len(plain.body))
	}
	if a := s.do(t, "GET", servicesPath, "", "Accept-Encoding", "gzip"); a.header.Get("Content-Encoding") != "" {
		t.Error("a small answer is compressed")
	}
}
