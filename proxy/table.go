package proxy

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A table is the proxy's own table in the kernel. Whatever it writes goes out as one batch, which the kernel takes as a
// whole or not at all.
type table struct {
	config  Config
	mu      sync.Mutex            // Held by whoever uses what follows.
	conn    *nftables.Conn        // Or nil.
	port    atomic.Uint32         // Of conn: changes that come from there are its own.
	watcher *watcher              // Or nil.
	have    choices               // The pick chains that the kernel holds. They stay when nobody needs them: the next rollout will.
	late    map[lateKey]time.Time // Until when the kernel holds what was last expected.
}

// errDamaged says that the kernel holds no such table, or not with the rules of this version of skiff.
var errDamaged = errors.New("table is missing or has other rules")

const (
	// socketBuffer is large enough for the kernel's answers, one for each message of a batch; where they do not fit, the
	// error of the last is ENOBUFS and nobody knows whether the batch was taken.
	socketBuffer = 16 << 20
	// chunk is the number of elements in one message. It counts its bytes in 16 bits and does not say when they overflow.
	chunk = 500
)

// dial returns the connection to the kernel. It is kept: the kernel holds up whoever closes one until the batches before are
// cleaned up, which takes milliseconds.
func (t *table) dial() (*nftables.Conn, error) {
	if t.conn != nil {
		return t.conn, nil
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		port, err := portOf(c)
		t.port.Store(port)
		return errors.Join(err, c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("dial netfilter: %w", err)
	}
	t.conn = conn
	return conn, nil
}

// close ends the connection. The next call of another method opens a new one.
func (t *table) close() {
	if t.conn != nil {
		_ = t.conn.CloseLasting() // Nothing is lost: each batch has been answered or has failed.
		t.conn = nil
	}
}

// closeOnError is for defer. A connection with an error may hold half a batch, or answers that nobody has read.
func (t *table) closeOnError(err *error) {
	if *err != nil {
		t.close()
	}
}

func (t *table) ref() *nftables.Table {
	return &nftables.Table{Name: t.config.Table, Family: nftables.TableFamilyINet}
}

// replace puts the whole table into the kernel in place of the one that may be there.
func (t *table) replace(elements []element) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.closeOnError(&err)
	conn, err := t.dial()
	if err != nil {
		return err
	}
	conn.AddTable(t.ref()) // So that there is one to delete.
	conn.DelTable(t.ref())
	conn.AddTable(t.ref())
	for _, s := range t.sets() {
		if err := conn.AddSet(s, nil); err != nil {
			return fmt.Errorf("add map %s: %w", s.Name, err)
		}
	}
	want := choicesOf(elements)
	all := chains(t.config, want)
	for _, ch := range all {
		t.addChain(conn, ch)
	}
	for _, m := range verdictMaps(t.config.families()) {
		if err := t.addVerdicts(conn, m, m.elements(want)); err != nil {
			return err
		}
	}
	if err := t.addElements(conn, elements); err != nil {
		return err
	}
	if err := t.flush(conn, len(elements)); err != nil {
		return fmt.Errorf("replace table %s: %w", t.config.Table, err)
	}
	t.have, t.late = want, nil
	return nil
}

// commit changes the elements by d, and adds the pick chains that they need.
func (t *table) commit(d diff) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.closeOnError(&err)
	conn, err := t.dial()
	if err != nil {
		return err
	}
	need := choicesOf(d.add)
	for m := range need {
		var fresh []verdictElement
		for _, n := range need[m] {
			if !slices.Contains(t.have[m], n) {
				t.addChain(conn, pickChain(m, n))
				fresh = append(fresh, verdictElement{n, m.chain(n)})
			}
		}
		if err := t.addVerdicts(conn, m, fresh); err != nil {
			return err
		}
	}
	if err := t.removeElements(conn, d.remove); err != nil {
		return err
	}
	if err := t.addElements(conn, d.add); err != nil {
		return err
	}
	if err := t.flush(conn, len(d.remove)+len(d.add)); err != nil {
		return fmt.Errorf("change %d elements of table %s: %w", len(d.remove)+len(d.add), t.config.Table, err)
	}
	for in, numbers := range need {
		t.have[in] = append(t.have[in], numbers...)
		slices.Sort(t.have[in])
		t.have[in] = slices.Compact(t.have[in])
	}
	return nil
}

func (t *table) addChain(conn *nftables.Conn, ch chain) {
	c := &nftables.Chain{Table: t.ref(), Name: ch.name}
	switch ch.name {
	case "prerouting":
		c.Hooknum, c.Priority = nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest
	case "output":
		c.Hooknum, c.Priority = nftables.ChainHookOutput, nftables.ChainPriorityNATDest
	case "late":
		c.Hooknum, c.Priority = nftables.ChainHookPostrouting, nftables.ChainPriorityRef(150)
	case "postrouting":
		c.Hooknum, c.Priority = nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource
	case "forward":
		c.Hooknum, c.Priority = nftables.ChainHookForward, nftables.ChainPriorityFilter
	}
	switch {
	case ch.name == "forward", ch.name == "late":
		c.Type = nftables.ChainTypeFilter
	case c.Hooknum != nil:
		c.Type = nftables.ChainTypeNAT
	}
	conn.AddChain(c)
	for _, r := range ch.rules {
		conn.AddRule(&nftables.Rule{Table: t.ref(), Chain: c, Exprs: r.exprs, UserData: r.signature()})
	}
}

// signature is a sum of the expressions that the kernel keeps with the rule. By it the proxy knows its own rules again, and
// another version of skiff notices that it would write them differently.
func (r rule) signature() []byte {
	sum := crc32.NewIEEE()
	for _, e := range r.exprs {
		if b, err := expr.Marshal(unix.NFPROTO_INET, e); err == nil { // An error comes again, and counts, when the rule is sent.
			sum.Write(b)
		}
	}
	return userdata.Append(nil, typeSum, sum.Sum(nil))
}

// typeSum marks the signature in a rule's user data. nft does not use this number, and skips what it does not know.
const typeSum userdata.Type = 100

// sets describes all maps to the kernel, each with a number that is needed within a batch only.
func (t *table) sets() []*nftables.Set {
	families := t.config.families()
	var all []*nftables.Set
	for _, id := range mapIDs(families) {
		all = append(all, id.describe().set(t.ref(), len(all)+1))
	}
	for _, m := range verdictMaps(families) {
		all = append(all, t.verdictSet(m, len(all)+1))
	}
	for _, f := range families {
		all = append(all, t.affinitySet(f, len(all)+1))
		for _, m := range lateMaps(f) {
			all = append(all, m.set(t.ref(), len(all)+1))
		}
	}
	return all
}

// affinitySet describes the map that the rules fill by themselves.
func (t *table) affinitySet(f family, number int) *nftables.Set {
	addr, proto, port := f.datatype(), nftables.TypeInetProto, nftables.TypeInetService
	return &nftables.Set{Table: t.ref(), ID: uint32(number), Name: affinityMap(f), IsMap: true,
		Dynamic: true, HasTimeout: true, Size: maxClients, Concatenation: true,
		KeyType: nftables.MustConcatSetType(addr, proto, port, addr), DataType: nftables.TypeClassID}
}

func (t *table) addVerdicts(conn *nftables.Conn, m verdictMap, elements []verdictElement) error {
	var list []nftables.SetElement
	for _, e := range elements {
		verdict := &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain}
		if e.chain == "" {
			verdict.Kind = expr.VerdictDrop
		}
		list = append(list, nftables.SetElement{Key: e.choice.bytes(), VerdictData: verdict})
	}
	if len(list) == 0 {
		return nil
	}
	if err := conn.SetAddElements(t.verdictSet(m, 0), list); err != nil {
		return fmt.Errorf("add to map %s: %w", m.name(), err)
	}
	return nil
}

func (t *table) verdictSet(m verdictMap, number int) *nftables.Set {
	return &nftables.Set{Table: t.ref(), ID: uint32(number), Name: m.name(), IsMap: true,
		KeyType: nftables.TypeMark, DataType: nftables.TypeVerdict, KeyByteOrder: binaryutil.BigEndian}
}

func (t *table) addElements(conn *nftables.Conn, add []element) error {
	return t.eachChunk(add, func(s *nftables.Set, list []nftables.SetElement) error {
		if err := conn.SetAddElements(s, list); err != nil {
			return fmt.Errorf("add to map %s: %w", s.Name, err)
		}
		return nil
	})
}

func (t *table) removeElements(conn *nftables.Conn, remove []element) error {
	return t.eachChunk(remove, func(s *nftables.Set, list []nftables.SetElement) error {
		if err := conn.SetDeleteElements(s, list); err != nil {
			return fmt.Errorf("remove from map %s: %w", s.Name, err)
		}
		return nil
	})
}

// eachChunk calls send with what the kernel is to be told of the elements, map by map.
func (t *table) eachChunk(elements []element, send func(s *nftables.Set, list []nftables.SetElement) error) error {
	for id, all := range byMap(elements) {
		m := id.describe()
		s := &nftables.Set{Table: t.ref(), Name: m.name(), IsMap: !m.isSet()}
		for part := range slices.Chunk(all, chunk) {
			list := make([]nftables.SetElement, 0, len(part))
			for _, e := range part {
				list = m.appendElement(list, e)
			}
			if err := send(s, list); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendElement appends what the kernel is to be told of one element.
func (m elementMap) appendElement(list []nftables.SetElement, e element) []nftables.SetElement {
	start, v := m.appendKey(nil, e.key), m.appendValue(nil, e.value)
	switch {
	case !m.ranges:
		return append(list, nftables.SetElement{Key: start, Val: v})
	case !m.halved():
		return append(list, nftables.SetElement{Key: start, KeyEnd: m.appendKey(nil, e.end()), Val: v})
	}
	list = append(list, nftables.SetElement{Key: start, Val: v})
	if behind := e.last.Next(); behind.IsValid() { // The last range of all has no end.
		list = append(list, nftables.SetElement{Key: behind.AsSlice(), IntervalEnd: true})
	}
	return list
}

func byMap(elements []element) map[mapID][]element {
	sorted := map[mapID][]element{}
	for _, e := range elements {
		id := e.mapID()
		sorted[id] = append(sorted[id], e)
	}
	return sorted
}

// Purge removes the table of that name from the kernel, and with it all that the proxy has put there. No error if it is gone.
func Purge(name string) error {
	t := &table{config: Config{Table: name}}
	defer t.close()
	conn, err := t.dial()
	if err != nil {
		return err
	}
	conn.AddTable(t.ref()) // So that there is one to delete.
	conn.DelTable(t.ref())
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove table %s: %w", name, err)
	}
	return nil
}
