package proxy

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// load reads the elements that the kernel holds. errDamaged: it must be told everything.
func (t *table) load() (elements map[key]value, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.closeOnError(&err)
	conn, err := t.dial()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(other *nftables.Table) bool { return other.Name == t.config.Table }) {
		return nil, errDamaged
	}
	if err := t.checkMaps(conn); err != nil {
		return nil, err
	}
	if err := t.loadChoices(conn); err != nil {
		return nil, err
	}
	if err := t.checkChains(conn); err != nil {
		return nil, err
	}
	return t.loadElements(conn)
}

// checkMaps compares the names of the kernel's maps with those that should be there.
func (t *table) checkMaps(conn *nftables.Conn) error {
	sets, err := conn.GetSets(t.ref())
	if err != nil {
		return fmt.Errorf("list maps: %w", err)
	}
	var want []string
	for _, s := range t.sets() {
		want = append(want, s.Name)
	}
	var have []string
	for _, s := range sets {
		have = append(have, s.Name)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		return errDamaged
	}
	return nil
}

// loadChoices learns which pick chains there are.
func (t *table) loadChoices(conn *nftables.Conn) error {
	t.have = choices{}
	for _, m := range verdictMaps(t.config.families()) {
		elements, err := conn.GetSetElements(&nftables.Set{Table: t.ref(), Name: m.name()})
		if err != nil {
			return fmt.Errorf("read map %s: %w", m.name(), err)
		}
		ends := 0
		for _, e := range elements {
			switch way, ok := choiceOf(e.Key); {
			case !ok:
				return errDamaged
			case way == refuse || way == drop:
				ends++
			default:
				t.have[m] = append(t.have[m], way)
			}
		}
		if ends != 2 {
			return errDamaged
		}
		slices.Sort(t.have[m])
	}
	return nil
}

// checkChains compares the chains and rules of the kernel with those that should be there.
func (t *table) checkChains(conn *nftables.Conn) error {
	listed, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	there := map[string]bool{}
	for _, ch := range listed {
		if ch.Table.Name == t.config.Table {
			there[ch.Name] = true
		}
	}
	want := chains(t.config, t.have)
	if len(there) != len(want) {
		return errDamaged
	}
	for _, ch := range want {
		if !there[ch.name] {
			return errDamaged
		}
		rules, err := conn.GetRules(t.ref(), &nftables.Chain{Name: ch.name})
		if err != nil {
			return fmt.Errorf("read chain %s: %w", ch.name, err)
		}
		if !slices.EqualFunc(rules, ch.rules, func(have *nftables.Rule, want rule) bool {
			return bytes.Equal(have.UserData, want.signature())
		}) {
			return errDamaged
		}
	}
	return nil
}

func choiceOf(key []byte) (c choice, ok bool) {
	if len(key) != 4 {
		return 0, false
	}
	return choice(binary.BigEndian.Uint32(key)), true
}

func (t *table) loadElements(conn *nftables.Conn) (map[key]value, error) {
	all := map[key]value{}
	for _, id := range mapIDs(t.config.families()) {
		m := id.describe()
		elements, err := conn.GetSetElements(&nftables.Set{Table: t.ref(), Name: m.name()})
		if err != nil {
			return nil, fmt.Errorf("read map %s: %w", m.name(), err)
		}
		if m.halved() {
			elements = whole(elements)
		}
		for _, e := range elements {
			k, v, err := m.decode(e.Key, e.KeyEnd, e.Val)
			if err != nil {
				return nil, errDamaged
			}
			all[k] = v
		}
	}
	return all, nil
}

// whole makes ranges of their beginnings and ends.
func whole(halves []nftables.SetElement) []nftables.SetElement {
	slices.SortFunc(halves, func(a, b nftables.SetElement) int {
		return cmp.Or(bytes.Compare(a.Key, b.Key), compareBool(b.IntervalEnd, a.IntervalEnd))
	})
	var all []nftables.SetElement
	for _, half := range halves {
		if !half.IntervalEnd {
			half.KeyEnd = bytes.Repeat([]byte{0xff}, len(half.Key)) // Until its end comes.
			all = append(all, half)
		} else if behind, ok := netip.AddrFromSlice(half.Key); ok && len(all) > 0 && behind.Prev().IsValid() {
			all[len(all)-1].KeyEnd = behind.Prev().AsSlice()
		}
	}
	return all
}
