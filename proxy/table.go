package proxy

import (
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
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
	config Config
	mu     sync.Mutex            // Held by whoever uses what follows.
	conn   *nftables.Conn        // Or nil.
	port   atomic.Uint32         // Of conn: changes that come from there are its own.
	have   choices               // The pick chains that the kernel holds. They stay when nobody needs them: the next rollout will.
	late   map[lateKey]time.Time // Until when the kernel holds what was last expected.
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
func (t *table) replace(elements map[key]value) (err error) {
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
	for i, m := range elementMaps() {
		if err := conn.AddSet(m.set(t.ref(), i+1), nil); err != nil {
			return fmt.Errorf("add map %s: %w", m.name, err)
		}
	}
	for i, m := range verdictMaps() {
		if err := conn.AddSet(t.verdictSet(m, len(elementMaps())+i+1), nil); err != nil {
			return fmt.Errorf("add map %s: %w", m.name, err)
		}
	}
	if err := conn.AddSet(t.affinitySet(), nil); err != nil {
		return fmt.Errorf("add map %s: %w", affinity, err)
	}
	for i, name := range lateMaps() {
		if err := conn.AddSet(t.lateSet(name, len(elementMaps())+len(verdictMaps())+2+i), nil); err != nil {
			return fmt.Errorf("add map %s: %w", name, err)
		}
	}
	want := choicesOf(elements)
	all := chains(t.config, want)
	for _, ch := range all {
		t.addChain(conn, ch)
	}
	for _, m := range verdictMaps() {
		if err := t.addVerdicts(conn, m, m.elements(want)); err != nil {
			return err
		}
	}
	if err := t.addElements(conn, elements); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
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
	for _, m := range verdictMaps() {
		var fresh []verdictElement
		for _, n := range need[m.name] {
			if !slices.Contains(t.have[m.name], n) {
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
	if err := conn.Flush(); err != nil {
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

// affinitySet describes the map that the rules fill by themselves.
func (t *table) affinitySet() *nftables.Set {
	addr, proto, port := nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService
	return &nftables.Set{Table: t.ref(), ID: uint32(len(elementMaps()) + len(verdictMaps()) + 1), Name: affinity, IsMap: true,
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
		return fmt.Errorf("add to map %s: %w", m.name, err)
	}
	return nil
}

func (t *table) verdictSet(m verdictMap, number int) *nftables.Set {
	return &nftables.Set{Table: t.ref(), ID: uint32(number), Name: m.name, IsMap: true,
		KeyType: nftables.TypeMark, DataType: nftables.TypeVerdict, KeyByteOrder: binaryutil.BigEndian}
}

func (t *table) addElements(conn *nftables.Conn, add map[key]value) error {
	for in, keys := range byMap(slices.Collect(maps.Keys(add))) {
		m := elementMapOf(in)
		for part := range slices.Chunk(keys, chunk) {
			var list []nftables.SetElement
			for _, k := range part {
				list = m.appendElement(list, k, m.valueBytes(add[k]))
			}
			if err := conn.SetAddElements(&nftables.Set{Table: t.ref(), Name: in, IsMap: !m.isSet()}, list); err != nil {
				return fmt.Errorf("add to map %s: %w", in, err)
			}
		}
	}
	return nil
}

func (t *table) removeElements(conn *nftables.Conn, remove []key) error {
	for in, keys := range byMap(remove) {
		m := elementMapOf(in)
		for part := range slices.Chunk(keys, chunk) {
			var list []nftables.SetElement
			for _, k := range part {
				list = m.appendElement(list, k, nil)
			}
			if err := conn.SetDeleteElements(&nftables.Set{Table: t.ref(), Name: in}, list); err != nil {
				return fmt.Errorf("remove from map %s: %w", in, err)
			}
		}
	}
	return nil
}

// appendElement appends what the kernel is to be told of one element.
func (m elementMap) appendElement(list []nftables.SetElement, k key, v []byte) []nftables.SetElement {
	start, end := m.bytes(k)
	if !m.halved() {
		return append(list, nftables.SetElement{Key: start, KeyEnd: end, Val: v})
	}
	list = append(list, nftables.SetElement{Key: start, Val: v})
	if behind := k.last.Next(); behind.IsValid() { // The last range of all has no end.
		list = append(list, nftables.SetElement{Key: behind.AsSlice(), IntervalEnd: true})
	}
	return list
}

func byMap(keys []key) map[string][]key {
	sorted := map[string][]key{}
	for _, k := range keys {
		sorted[k.in] = append(sorted[k.in], k)
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
