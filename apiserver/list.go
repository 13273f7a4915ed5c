package apiserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"skiff/api"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// page is a part of a resource's objects, all of the same moment.
type page struct {
	items     []*item
	rev       uint64
	next      string // Token of the next page; "" on the last.
	remaining *int64 // How many follow, where that is known.
}

// snapshots keeps what lists in pages have begun on, so that all pages are of one moment.
type snapshots struct {
	mu   sync.Mutex
	kept []kept // Oldest first.
}

type kept struct {
	shelf   *shelf
	rev     uint64
	tree    *btree.BTreeG[*item]
	expires time.Time
}

// Kubernetes keeps the past for 5 minutes. The count bounds what a client can make the server hold.
const (
	snapshotLife = 5 * time.Minute
	snapshotsMax = 64
)

func (k *snapshots) keep(s *shelf, rev uint64, tree *btree.BTreeG[*item]) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for len(k.kept) > 0 && (k.kept[0].expires.Before(now) || len(k.kept) >= snapshotsMax) {
		k.kept = k.kept[1:]
	}
	k.kept = append(k.kept, kept{s, rev, tree, now.Add(snapshotLife)})
}

func (k *snapshots) find(s *shelf, rev uint64) *btree.BTreeG[*item] {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.kept {
		if one.shelf == s && one.rev == rev && one.expires.After(time.Now()) {
			return one.tree
		}
	}
	return nil
}

// continueToken is where a list in pages goes on.
type continueToken struct {
	Rev   uint64 `json:"rv"`
	Start string `json:"start"` // The first key of the next page.
}

func (t continueToken) String() string {
	b, _ := json.Marshal(t)
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseContinue(text string) (t continueToken, err error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		return t, apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %v", err))
	}
	return t, nil
}

// list reads a page.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
func (s *Server) list(ctx context.Context, sh *shelf, sel selection, query url.Values) (page, error) {
	limit, err := intParam(query, "limit")
	if err != nil {
		return page{}, err
	}
	if token := query.Get("continue"); token != "" {
		if rv := query.Get("resourceVersion"); rv != "" && rv != "0" {
			return page{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		t, err := parseContinue(token)
		if err != nil {
			return page{}, err
		}
		tree := s.snapshots.find(sh, t.Rev)
		if tree == nil {
			return page{}, s.expired(sh, t)
		}
		return s.slice(sh, tree, t.Rev, sel, t.Start, limit), nil
	}
	tree, rev, err := s.at(ctx, sh, query.Get("resourceVersion"), query.Get("resourceVersionMatch"))
	if err != nil {
		return page{}, err
	}
	p := s.slice(sh, tree, rev, sel, "", limit)
	if p.next != "" {
		s.snapshots.keep(sh, rev, tree)
	}
	return p, nil
}

// expired is the answer to a token whose moment is no longer kept: with a new token, from which the client may go on, if
// it can live with pages of two moments.
func (s *Server) expired(sh *shelf, t continueToken) error {
	tree, rev := sh.snapshot(s.cache)
	s.snapshots.keep(sh, rev, tree)
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = continueToken{rev, t.Start}.String()
	return err
}

// at finds the state that a resourceVersion asks for.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
func (s *Server) at(ctx context.Context, sh *shelf, version, match string) (*btree.BTreeG[*item], uint64, error) {
	want, err := parseRevision(version)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case match == "":
	case version == "":
		return nil, 0, apierrors.NewBadRequest("resourceVersionMatch is forbidden unless resourceVersion is provided")
	case match == string(metav1.ResourceVersionMatchExact) && want > 0:
		tree, rev := sh.snapshot(s.cache)
		if rev == want {
			return tree, rev, nil
		}
		if tree := s.snapshots.find(sh, want); tree != nil {
			return tree, want, nil
		}
		if want < rev {
			return nil, 0, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", want, rev))
		}
	case match != string(metav1.ResourceVersionMatchNotOlderThan):
		return nil, 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersionMatch: Invalid value %q for resourceVersion %q", match, version))
	}
	if err := s.reach(ctx, want); err != nil {
		return nil, 0, err
	}
	tree, rev := sh.snapshot(s.cache)
	return tree, rev, nil
}

// reach fails if the store has not come to a revision that a client says it has seen.
func (s *Server) reach(_ context.Context, want uint64) error {
	if have := s.cache.revision(); have < want {
		err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", want, have), 1)
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
		return err
	}
	return nil
}

func parseRevision(version string) (uint64, error) {
	if version == "" || version == "0" {
		return 0, nil
	}
	rev, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion: Invalid value: %q: must be a number", version))
	}
	return rev, nil
}

func intParam(query url.Values, name string) (int, error) {
	text := query.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("%s: Invalid value: %q: must be a whole number that is not negative", name, text))
	}
	return n, nil
}

// slice picks at most limit objects (0: all) of a state, from the key start on.
func (s *Server) slice(sh *shelf, tree *btree.BTreeG[*item], rev uint64, sel selection, start string, limit int) page {
	p := page{rev: rev}
	prefix := ""
	if sel.namespace != "" {
		prefix = sel.namespace + "/"
	}
	var left int64
	tree.AscendGreaterOrEqual(&item{key: max(prefix, start)}, func(it *item) bool {
		if prefix != "" && (len(it.key) < len(prefix) || it.key[:len(prefix)] != prefix) {
			return false
		}
		if !sel.match(it) {
			return true
		}
		if limit > 0 && len(p.items) == limit {
			if p.next == "" {
				p.next = continueToken{rev, it.key}.String()
			}
			left++
			return sel.everything()
		}
		p.items = append(p.items, it)
		return true
	})
	if p.next != "" && sel.everything() {
		p.remaining = &left
	}
	return p
}

func (p page) meta() metav1.ListMeta {
	return metav1.ListMeta{ResourceVersion: strconv.FormatUint(p.rev, 10), Continue: p.next, RemainingItemCount: p.remaining}
}

// serveList answers with a list, put together from the objects' encodings.
func (s *Server) serveList(w http.ResponseWriter, r *http.Request, sh *shelf, sel selection) error {
	f, err := negotiate(r, "Table", "PartialObjectMetadataList")
	if err != nil {
		return err
	}
	p, err := s.list(r.Context(), sh, sel, r.URL.Query())
	if err != nil {
		return err
	}
	var body []byte
	switch {
	case f.as == "Table":
		t, err := newTable(sh.resource, r, p.items, true)
		if err != nil {
			return err
		}
		t.ListMeta = p.meta()
		return respondAs(w, r, f, t)
	case f.as == "PartialObjectMetadataList":
		return respondAs(w, r, f, partialList(p))
	case f.media == typeProto:
		body, err = listProto(sh.resource, p)
	default:
		body, err = listJSON(sh.resource, p)
		if err == nil && (f.media == typeYAML || wantsPretty(r)) {
			return respondReencoded(w, f, body)
		}
	}
	if err != nil {
		return err
	}
	return respondBytes(w, f.media, http.StatusOK, body)
}

// listJSON writes a list by joining its items' own JSON, less their kind and apiVersion, which Kubernetes' lists leave
// out.
func listJSON(r *api.Resource, p page) ([]byte, error) {
	head, err := json.Marshal(p.meta())
	if err != nil {
		return nil, err
	}
	apiVersion := r.GroupVersion().String()
	typed := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, r.Kind, apiVersion)
	var buf bytes.Buffer
	fmt.Fprintf(&buf, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, r.Kind+"List", apiVersion, head)
	for i, it := range p.items {
		if i > 0 {
			buf.WriteByte(',')
		}
		b, err := it.jsonBytes()
		if err != nil {
			return nil, err
		}
		if rest, ok := bytes.CutPrefix(b, typed); ok {
			buf.WriteByte('{')
			b = rest
		}
		buf.Write(b)
	}
	buf.WriteString("]}\n")
	return buf.Bytes(), nil
}

// listProto does the same in protobuf: every list message has its metadata in field 1 and its items in field 2.
func listProto(r *api.Resource, p page) ([]byte, error) {
	m := p.meta()
	head, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	size := len(head) + 10
	for _, it := range p.items {
		b, err := it.protoBytes()
		if err != nil {
			return nil, err
		}
		size += len(b) + 10
	}
	raw := appendField(make([]byte, 0, size), 1, head)
	for _, it := range p.items {
		b, _ := it.protoBytes() // Cached by the loop above.
		raw = appendField(raw, 2, b)
	}
	return envelope(r.GroupVersion().String(), r.Kind+"List", raw)
}
