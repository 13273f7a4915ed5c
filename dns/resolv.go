package dns

import (
	"io"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	maxUpstreams = 3               // As resolv.conf(5) has it.
	maxResolv    = 64 << 10        // Bytes of resolv.conf.
	recheckEvery = 2 * time.Second // How often, when used, resolv.conf is looked at.
)

// stub is where systemd-resolved answers, on a machine that it looks after; resolvedConf lists the servers that it asks
// itself. To ask those saves a hop, and the loop that there is where systemd-resolved is told to ask the cluster's DNS.
const resolvedConf = "/run/systemd/resolve/resolv.conf"

func isStub(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// resolvConf follows a resolv.conf. It is looked at when it is used, and not otherwise.
type resolvConf struct {
	path     string
	resolved string    // What to read instead when systemd-resolved's stub is all there is.
	checked  time.Time // When it was last looked at.
	seen     []os.FileInfo
	servers  []netip.Addr
	search   []string
}

// read looks whether the file has changed. A file that has gone leaves no servers.
func (r *resolvConf) read(now time.Time) (changed bool) {
	if !r.checked.IsZero() && now.Sub(r.checked) < recheckEvery {
		return false
	}
	r.checked = now
	seen := []os.FileInfo{stat(r.path), stat(r.resolved)}
	if len(r.seen) == 2 && unchanged(r.seen[0], seen[0]) && unchanged(r.seen[1], seen[1]) {
		return false
	}
	servers, search, err := readResolv(r.path)
	if err != nil && !os.IsNotExist(err) {
		return false // The next look reads it again.
	}
	if len(servers) > 0 && allStubs(servers) {
		if behind, _, err := readResolv(r.resolved); err == nil && len(behind) > 0 {
			servers = behind
		}
	}
	r.seen, r.servers, r.search = seen, servers, search
	return true
}

func allStubs(servers []netip.Addr) bool {
	for _, server := range servers {
		if !isStub(server) {
			return false
		}
	}
	return true
}

func stat(path string) os.FileInfo {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

func unchanged(before, now os.FileInfo) bool {
	if before == nil || now == nil {
		return before == nil && now == nil
	}
	return os.SameFile(before, now) && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size()
}

func readResolv(path string) (servers []netip.Addr, search []string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxResolv))
	if err != nil {
		return nil, nil, err
	}
	servers, search = parseResolv(string(text))
	return servers, search, nil
}

// parseResolv returns the nameservers of a resolv.conf, the first of them that are allowed for, and its search list.
func parseResolv(text string) (servers []netip.Addr, search []string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if ip, err := netip.ParseAddr(fields[1]); err == nil && len(servers) < maxUpstreams {
				servers = append(servers, ip.Unmap())
			}
		case "search":
			search = fields[1:]
		}
	}
	return servers, search
}
