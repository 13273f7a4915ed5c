package apiserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"skiff/api"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
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
	most int // Bytes; see snapshotBytes.

	mu      sync.Mutex
	kept    []kept // Oldest first.
	waiting bool   // Whether forget comes by itself.
}

type kept struct {
	shelf *shelf
	state
	expires time.Time
}

// Kubernetes keeps the past for 5 minutes. The others bound what a client can make the server hold.
const (
	snapshotLife  = 5 * time.Minute
	snapshotsMax  = 64
	snapshotBytes = 64 << 20 // Of objects that only snapshots still have, as stored, but for those of the newest.
)

func (k *snapshots) keep(s *shelf, st state) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = slices.DeleteFunc(k.kept, func(one kept) bool { return one.shelf == s && one.to == st.to })
	if len(k.kept) == snapshotsMax {
		k.kept = slices.Delete(k.kept, 0, 1)
	}
	k.kept = append(k.kept, kept{s, st, time.Now().Add(snapshotLife)})
	for len(k.kept) > 1 && pinned(k.kept) > k.most {
		k.kept = slices.Delete(k.kept, 0, 1)
	}
	if !k.waiting {
		k.waiting = true
		time.AfterFunc(snapshotLife, k.forget)
	}
}

// pinned is at most how many bytes only snapshots still have: versions of objects that have gone since the oldest of a stock, and
// no more than those of its snapshots are altogether.
func pinned(all []kept) (bytes int) {
	gone, sizes := map[*stock]int{}, map[*stock]int{}
	for _, one := range all {
		if _, older := gone[one.shelf.stock]; !older {
			gone[one.shelf.stock] = one.shelf.goneSince(one.state)
		}
		sizes[one.shelf.stock] += one.size
	}
	for stock, since := range gone {
		bytes += min(since, sizes[stock])
	}
	return bytes
}

// forget drops what has expired, and comes again when the next does: a state may be all of what was there before a large
// cluster became a small one.
func (k *snapshots) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	k.kept = slices.DeleteFunc(k.kept, func(one kept) bool { return !one.expires.After(now) })
	k.waiting = len(k.kept) > 0
	if k.waiting {
		time.AfterFunc(k.kept[0].expires.Sub(now), k.forget)
	}
}

func (k *snapshots) find(s *shelf, rev uint64) (state, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.kept {
		if one.shelf == s && one.from <= rev && rev <= one.to && one.expires.After(time.Now()) {
			return one.state.at(rev), true
		}
	}
	return state{}, false
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
		return t, apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: continue key is not valid: %v", err))
	}
	return t, nil
}

// list reads a page. Who reads from resourceVersion "0" gets all in one, as from kube-apiserver's cache.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
func (s *Server) list(ctx context.Context, sh *shelf, sel selection, o *internalversion.ListOptions) (page, error) {
	limit := o.Limit
	if o.ResourceVersion == "0" {
		limit = 0
	}
	if o.Continue != "" {
		t, err := parseContinue(o.Continue)
		if err != nil {
			return page{}, err
		}
		if o.ResourceVersion != "" && o.ResourceVersion != "0" {
			return page{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		st, ok := s.was(sh, t.Rev)
		if !ok {
			return page{}, s.expired(sh, t)
		}
		return st.page(sel, t.Start, limit), nil
	}
	st, err := s.at(ctx, sh, o.ResourceVersion, matchOf(o))
	if err != nil {
		return page{}, err
	}
	p := st.page(sel, "", limit)
	if p.next != "" {
		s.snapshots.keep(sh, st)
	}
	return p, nil
}

// matchOf says how a list's resourceVersion is meant: who asks for pages and does not say, means just that one.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list
func matchOf(o *internalversion.ListOptions) metav1.ResourceVersionMatch {
	if o.ResourceVersionMatch == "" && o.Limit > 0 && o.ResourceVersion != "" && o.ResourceVersion != "0" {
		return metav1.ResourceVersionMatchExact
	}
	return o.ResourceVersionMatch
}

// expired is the answer to a token whose moment is no longer kept: with a new token, from which the client may go on, if
// it can live with pages of two moments.
func (s *Server) expired(sh *shelf, t continueToken) error {
	st := sh.state(s.cache)
	s.snapshots.keep(sh, st)
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = continueToken{st.to, t.Start}.String()
	return err
}

// at finds the state that a resourceVersion asks for.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
func (s *Server) at(ctx context.Context, sh *shelf, version string, match metav1.ResourceVersionMatch) (state, error) {
	want, err := parseRevision(version)
	if err != nil {
		return state{}, apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	if err := s.reach(ctx, want); err != nil {
		return state{}, err
	}
	st := sh.state(s.cache)
	if match != metav1.ResourceVersionMatchExact {
		return st, nil
	}
	if st.from <= want {
		return st.at(want), nil
	}
	if st, ok := s.was(sh, want); ok {
		return st, nil
	}
	return state{}, tooOld(want, st.from)
}

// was finds a state of before: one that a list in pages has begun on, or one that what has happened since still leads back to.
func (s *Server) was(sh *shelf, rev uint64) (state, bool) {
	if st, ok := s.snapshots.find(sh, rev); ok {
		return st, true
	}
	return sh.past(s.cache, rev)
}

func tooOld(want, oldest uint64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", want, oldest))
}

// reachTimeout is how long a request waits for a revision that the client has seen and this server has not.
const reachTimeout = 3 * time.Second

// reach waits until the server has come to a revision.
func (s *Server) reach(ctx context.Context, want uint64) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	err := s.cache.wait(ctx, want)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	const tooLarge = "Too large resource version"
	timeout := apierrors.NewTimeoutError(fmt.Sprintf("%s: %d, current: %d", tooLarge, want, s.cache.revision()), 1)
	timeout.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: tooLarge}}
	return timeout
}

func parseRevision(version string) (uint64, error) {
	if version == "" {
		return 0, nil
	}
	rev, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, field.Invalid(field.NewPath("resourceVersion"), version, err.Error())
	}
	return rev, nil
}

// page picks at most limit objects (0: all) of a state, from the key start on.
func (st state) page(sel selection, start string, limit int64) page {
	p := page{rev: st.to}
	prefix := ""
	if sel.namespace != "" {
		prefix = sel.namespace + "/"
	}
	var left int64
	st.tree.AscendGreaterOrEqual(&item{key: max(prefix, start)}, func(it *item) bool {
		if !strings.HasPrefix(it.key, prefix) {
			return false
		}
		if !sel.match(it) {
			return true
		}
		if limit > 0 && int64(len(p.items)) == limit {
			if p.next == "" {
				p.next = continueToken{st.to, it.key}.String()
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

// items are all objects of a state that a selection names.
func (st state) items(sel selection) []*item { return st.page(sel, "", 0).items }

func (p page) meta() metav1.ListMeta {
	return metav1.ListMeta{ResourceVersion: strconv.FormatUint(p.rev, 10), Continue: p.next, RemainingItemCount: p.remaining}
}

// shown is the page in the form of a row that may be a view.
func (p page) shown(r *api.Resource) page {
	if r.View == nil {
		return p
	}
	items := make([]*item, len(p.items))
	for i, it := range p.items {
		items[i] = it.shown(r)
	}
	p.items = items
	return p
}

// serveList answers with a page, put together from the objects' encodings.
func serveList(w http.ResponseWriter, r *http.Request, res *api.Resource, p page) error {
	f, err := negotiateRow(r, res, "Table", "PartialObjectMetadataList")
	if err != nil {
		return err
	}
	if f.as == "Table" {
		t, err := newTable(res, r, f, p.items, true)
		if err != nil {
			return err
		}
		t.ListMeta = p.meta()
		return respondAs(w, r, http.StatusOK, f, t)
	}
	p = p.shown(res)
	var list document
	switch {
	case f.as == "PartialObjectMetadataList":
		return respondAs(w, r, http.StatusOK, f, partialList(f, p))
	case f.media == typeProto:
		list, err = listProto(res, p)
	default:
		list, err = listJSON(res, p)
	}
	if err != nil {
		return err
	}
	if f.media == typeYAML || f.media == typeJSON && wantsPretty(r) {
		body, err := list.bytes()
		if err == nil {
			body, err = reencode(f, body)
		}
		if err != nil {
			return err
		}
		return respondBytes(w, r, f.media, http.StatusOK, body)
	}
	list.respond(w, r, f.media, http.StatusOK)
	return nil
}
