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
	iptables := func(chain string, flags ...string) {
		var commands []string
		for _, flag := range flags {
			commands = append(commands, fmt.Sprintf("iptables -I %s %s %s -j ACCEPT", chain, flag, pods))
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
		b.rule = "Docker has set the policy of the chain FORWARD to DROP"
		iptables("DOCKER-USER", "-s", "-d")
	case f.table == "filter" && f.hook == "forward":
		iptables(f.chain, "-s", "-d")
	case f.table == "filter":
		iptables(f.chain, "-s")
	default:
		b.mend = fmt.Sprintf("nft insert rule %s %s %s ip saddr %s accept", f.family, f.table, f.chain, pods)
		if f.hook == "forward" {
			b.mend += fmt.Sprintf(" && nft insert rule %s %s %s ip daddr %s accept", f.family, f.table, f.chain, pods)
		}
	}
	return b
}

// lookFirewalls finds the first filter that blocks pods.
func lookFirewalls() error {
	filters, err := listFilters(netip.MustParsePrefix(defaultPods))
	if err != nil {
		return err
	}
	for _, f := range append(filters, legacyFilters()...) {
		if b := f.blocks(defaultPods, defaultServices); b != nil {
			return b
		}
	}
	return nil
}

// listFilters reads those that the kernel has in nftables, where today's iptables puts its own, too.
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
		family, known := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"}[ch.Table.Family]
		if hook == "" || !known || ch.Type != nftables.ChainTypeFilter {
			continue
		}
		f := filter{family: family, table: ch.Table.Name, chain: ch.Name, hook: hook}
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
func legacyFilters() []filter {
	names, err := os.ReadFile("/proc/net/ip_tables_names")
	if err != nil || !strings.Contains("\n"+string(names), "\nfilter\n") {
		return nil
	}
	out, err := exec.Command("iptables-legacy", "-S").Output()
	if err != nil {
		return nil
	}
	return parseLegacy(string(out), defaultPods)
}

// parseLegacy reads what iptables -S prints.
func parseLegacy(text, pods string) []filter {
	var all []filter
	var chains []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "-P" && (words[1] == "FORWARD" || words[1] == "INPUT"):
			all = append(all, filter{family: "ip", table: "filter", chain: words[1], hook: strings.ToLower(words[1]), drops: words[2] == "DROP"})
		case len(words) == 2 && words[0] == "-N":
			chains = append(chains, words[1])
		}
	}
	for i := range all {
		all[i].chains, all[i].mentions = chains, strings.Contains(text, pods)
	}
	return all
}
