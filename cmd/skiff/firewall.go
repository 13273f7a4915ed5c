package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// A host's own firewall may drop what pods send and get: skiff's rules let it pass, but every table of the kernel has a say. skiff
// does not change what is not its own, so it names the rule, and the command that makes an exception for pods.

// A blocked is an error with the command that mends it.
type blocked struct{ rule, mend string }

func (b *blocked) Error() string { return b.rule }

// A filter is a chain of a firewall that sees packets by itself, and the table around it.
type filter struct {
	family, table, chain string
	hook                 string // "forward" or "input".
	v6                   bool   // Looked at as what packets of IPv6 pass.
	drops                bool   // What no rule lets through.
	chains               []string
	mentions             bool // A rule of the table names the pods' range: somebody has thought of them.
}

// blocks decides whether a filter keeps pods from working. nil: it does not.
func (f filter) blocks(pods, services string) *blocked {
	if f.mentions || !f.drops && f.table != "firewalld" {
		return nil
	}
	b := &blocked{rule: fmt.Sprintf("table %s %s, chain %s drops what no rule lets through", f.family, f.table, f.chain)}
	program, ip := "iptables", "ip"
	if f.v6 {
		program, ip = "ip6tables", "ip6"
	}
	iptables := func(chain string, flags ...string) {
		var commands []string
		for _, flag := range flags {
			commands = append(commands, fmt.Sprintf("%s -I %s %s %s -j ACCEPT", program, chain, flag, pods))
		}
		b.mend = strings.Join(commands, " && ")
	}
	switch {
	case f.table == "firewalld":
		b.rule = fmt.Sprintf("firewalld rejects what is not of a zone that it trusts (table %s %s, chain %s)", f.family, f.table, f.chain)
		b.mend = fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-source=%s --add-source=%s && firewall-cmd --reload", pods, services)
	case slices.Contains(f.chains, "ufw-user-forward"):
		b.rule = "ufw " + b.rule[strings.Index(b.rule, "drops"):] + " (chain " + f.chain + ")"
		b.mend = fmt.Sprintf("ufw allow from %s && ufw route allow from %s && ufw route allow to %s", pods, pods, pods)
	case f.table == "filter" && f.hook == "forward" && slices.Contains(f.chains, "DOCKER-USER"):
		b.rule = fmt.Sprintf("Docker has set the policy of the chain FORWARD of %s to DROP", program)
		iptables("DOCKER-USER", "-s", "-d")
	case f.table == "filter" && f.hook == "forward":
		iptables(f.chain, "-s", "-d")
	case f.table == "filter":
		iptables(f.chain, "-s")
	default:
		b.mend = fmt.Sprintf("nft insert rule %s %s %s %s saddr %s accept", f.family, f.table, f.chain, ip, pods)
		if f.hook == "forward" {
			b.mend += fmt.Sprintf(" && nft insert rule %s %s %s %s daddr %s accept", f.family, f.table, f.chain, ip, pods)
		}
	}
	return b
}

// lookFirewalls finds the first filter that blocks pods, of one family after the other.
func lookFirewalls(s *settings) error {
	for _, pods := range s.clusterRanges {
		filters, err := listFilters(pods)
		if err != nil {
			return err
		}
		services := s.serviceRanges.find(func(a netip.Addr) bool { return family(a) == family(pods.Addr()) })
		if !services.IsValid() {
			services = pods // Their addresses are all that there is to let through.
		}
		for _, f := range append(filters, legacyFilters(pods)...) {
			if b := f.blocks(pods.String(), services.String()); b != nil {
				return b
			}
		}
	}
	return nil
}

// listFilters reads those that the kernel has in nftables, where today's iptables puts its own, too, and that packets of the pods' family pass.
func listFilters(pods netip.Prefix) ([]filter, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var all []filter
	for _, ch := range chains {
		hook := hookOf(ch)
		family, known := passedBy(pods.Addr())[ch.Table.Family]
		if hook == "" || !known || ch.Type != nftables.ChainTypeFilter {
			continue
		}
		f := filter{family: family, table: ch.Table.Name, chain: ch.Name, hook: hook, v6: pods.Addr().Is6()}
		f.drops = ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		for _, other := range chains {
			if other.Table.Name == ch.Table.Name && other.Table.Family == ch.Table.Family {
				f.chains = append(f.chains, other.Name)
				rules, err := conn.GetRules(ch.Table, other)
				if err != nil {
					return nil, fmt.Errorf("list the rules of chain %s: %w", other.Name, err)
				}
				f.mentions = f.mentions || slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return mentions(r, pods) })
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// passedBy are the families of the tables that packets with such an address pass, in nft's words.
func passedBy(addr netip.Addr) map[nftables.TableFamily]string {
	if addr.Is6() {
		return map[nftables.TableFamily]string{nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}
	}
	return map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"}
}

func hookOf(ch *nftables.Chain) string {
	switch {
	case ch.Hooknum == nil:
	case *ch.Hooknum == *nftables.ChainHookForward:
		return "forward"
	case *ch.Hooknum == *nftables.ChainHookInput:
		return "input"
	}
	return ""
}

// mentions reports whether a rule compares something with the pods' range. A range of whole bytes is compared without its zeros.
func mentions(r *nftables.Rule, pods netip.Prefix) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		cmp, ok := e.(*expr.Cmp)
		return ok && len(cmp.Data)*8 >= pods.Bits() && bytes.HasPrefix(pods.Addr().AsSlice(), cmp.Data)
	})
}

// legacyFilters reads those of the older iptables, which the kernel keeps elsewhere. It is asked only where it is in use: asking alone
// would load it.
func legacyFilters(pods netip.Prefix) []filter {
	inUse, program := "/proc/net/ip_tables_names", "iptables-legacy"
	if pods.Addr().Is6() {
		inUse, program = "/proc/net/ip6_tables_names", "ip6tables-legacy"
	}
	names, err := os.ReadFile(inUse)
	if err != nil || !strings.Contains("\n"+string(names), "\nfilter\n") {
		return nil
	}
	out, err := exec.Command(program, "-S").Output()
	if err != nil {
		return nil
	}
	return parseLegacy(string(out), pods)
}

// parseLegacy reads what iptables -S prints.
func parseLegacy(text string, pods netip.Prefix) []filter {
	family := "ip"
	if pods.Addr().Is6() {
		family = "ip6"
	}
	var all []filter
	var chains []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "-P" && (words[1] == "FORWARD" || words[1] == "INPUT"):
			all = append(all, filter{family: family, table: "filter", chain: words[1], hook: strings.ToLower(words[1]), drops: words[2] == "DROP", v6: pods.Addr().Is6()})
		case len(words) == 2 && words[0] == "-N":
			chains = append(chains, words[1])
		}
	}
	for i := range all {
		all[i].chains, all[i].mentions = chains, strings.Contains(text, pods.String())
	}
	return all
}
