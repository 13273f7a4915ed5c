package test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const clusterDNS = "10.43.0.10:53"

// TestDNS asks for names from pods, by the resolvers of glibc and of musl, through all that can go away.
func TestDNS(t *testing.T) {
	n := newNode(t, "--dns-forward", ".="+outsideAddr, "--dns-pods", "verified")
	n.addImages("resolver")
	outside := n.serveDNS()
	n.start()
	s := n.shell(t)
	s.do("kubectl apply -f dns/ -f " + repository("test/testdata/resolver.yaml"))
	s.do("kubectl wait --for=condition=Ready pod --all --timeout=60s")

	t.Run("the lessons are true", func(t *testing.T) { testDNSLessons(t, n.shell(t)) })
	t.Run("both resolvers find what there is", func(t *testing.T) { testResolvers(t, n.shell(t)) })
	t.Run("dig sees it over UDP and TCP", func(t *testing.T) { testDig(t, n.shell(t)) })
	t.Run("the server can be watched", func(t *testing.T) { testDNSLog(t, n.shell(t)) })
	t.Run("without the resolver outside, what was known is answered", func(t *testing.T) { testWithoutUpstream(t, n.shell(t), outside) })
	t.Run("a restart under load answers nothing wrong", func(t *testing.T) { testDNSRestart(t, n) })
	t.Run("autopath spares questions", func(t *testing.T) { testAutopath(t, n) })
}

// serveDNS answers outside of the node, for a second: names that begin with www exist, and no others. It returns what turns that off.
func (n *node) serveDNS() (off func()) {
	n.t.Helper()
	var packets net.PacketConn
	var err error
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		runtime.LockOSThread() // Never unlocked: the thread is of that namespace, and ends with us.
		if err = enter(n.outside); err == nil {
			packets, err = net.ListenPacket("udp4", outsideAddr+":53")
		}
	}()
	<-opened
	if err != nil {
		n.t.Fatal(err)
	}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		reply := new(dns.Msg)
		reply.SetReply(question)
		header := dns.RR_Header{Name: question.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}
		root := dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 1}
		reply.Ns = []dns.RR{&dns.SOA{Hdr: root, Ns: "ns.example.com.", Mbox: "host.example.com.", Minttl: 1}}
		switch {
		case !strings.HasPrefix(strings.ToLower(header.Name), "www."):
			reply.Rcode = dns.RcodeNameError
		case question.Question[0].Qtype == dns.TypeA:
			reply.Answer, reply.Ns = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 1)}}, nil
		}
		_ = w.WriteMsg(reply) // Who asked may have given up.
	})}
	done := make(chan struct{})
	go func() { _ = server.ActivateAndServe(); close(done) }()
	off = sync.OnceFunc(func() { packets.Close(); <-done })
	n.t.Cleanup(off)
	return off
}

// testDNSLessons takes the lessons of examples/dns.
func testDNSLessons(t *testing.T, s *shell) {
	addresses := func(pod, name string) string {
		return s.do("kubectl exec " + pod + " -- getent ahostsv4 " + name + " | cut -d' ' -f1 | sort -u")
	}
	app := s.do("kubectl get service app -o jsonpath={.spec.clusterIP}")
	db := s.do("kubectl get pod db-0 -o jsonpath={.status.podIP}")
	for name, want := range map[string]string{"app": app, "db": db, "db-0.db": db, "elsewhere": app, "www.example.com.": "192.0.2.1"} {
		for _, pod := range []string{"asker", "thrifty"} {
			if got := addresses(pod, name); got != want {
				t.Errorf("%s has the address %q in %s, want %s", name, got, pod, want)
			}
		}
	}
	questions := func(pod, name string) int {
		before := s.asked()
		s.do("kubectl exec " + pod + " -- getent ahosts " + name)
		return s.asked() - before
	}
	endings := len(strings.Fields(s.do("kubectl exec asker -- grep ^search /etc/resolv.conf"))) - 1 // Three, and the node's own.
	for _, tc := range []struct {
		pod, name string
		want      int
	}{{"asker", "www.example.com", 2 * (endings + 1)}, {"asker", "www.example.com.", 2}, {"thrifty", "www.example.com", 2}, {"thrifty", "app", 2}} {
		if got := questions(tc.pod, tc.name); got != tc.want {
			t.Errorf("%s costs %s %d questions, want %d", tc.name, tc.pod, got, tc.want)
		}
	}
}

var requestCount = regexp.MustCompile(`(?m)^skiff_dns_requests_total\{.*\} (\d+)$`)

// asked is how many questions the node's DNS server has answered.
func (s *shell) asked() (n int) {
	s.t.Helper()
	for _, match := range requestCount.FindAllStringSubmatch(s.do(repository("bin/skiff")+" dns metrics --run-dir "+s.run), -1) {
		var one int
		if _, err := fmt.Sscan(match[1], &one); err != nil {
			s.t.Fatal(err)
		}
		n += one
	}
	return n
}

// testResolvers asks for names of every kind by the libraries that nearly all programs in containers use.
func testResolvers(t *testing.T, s *shell) {
	app := s.do("kubectl get service app -o jsonpath={.spec.clusterIP}")
	db := s.do("kubectl get pod db-0 -o jsonpath={.status.podIP}")
	for library, command := range map[string]string{"glibc": "getent ahosts", "musl": "musl-lookup"} {
		find := func(name string) string {
			return s.do("kubectl exec resolver -- " + command + " " + name + " | cut -d' ' -f1 | sort -u")
		}
		for name, want := range map[string]string{
			"app": app, "app.default": app, "app.default.svc": app, "app.default.svc.cluster.local": app, "app.default.svc.cluster.local.": app,
			"db": db, "db-0.db": db, "elsewhere": app, "kubernetes.default": "10.43.0.1", "kube-dns.kube-system": "10.43.0.10",
			"www.example.com": "192.0.2.1", strings.ReplaceAll(db, ".", "-") + ".default.pod": db,
		} {
			if got := find(name); got != want {
				t.Errorf("%s finds %q at %s, want %s", library, got, name, want)
			}
		}
		for _, name := range []string{"nobody", "nobody.default.svc.cluster.local", "x.app", "none.example.com"} {
			if r := s.try("kubectl exec resolver -- " + command + " " + name); r.status != 2 {
				t.Errorf("%s: a name that does not exist: %v", library, r)
			}
		}
	}
}

func testDig(t *testing.T, s *shell) {
	app := s.do("kubectl get service app -o jsonpath={.spec.clusterIP}")
	db := s.do("kubectl get pod db-0 -o jsonpath={.status.podIP}")
	for _, network := range []string{"+notcp", "+tcp"} {
		for question, want := range map[string]string{
			"app.default.svc.cluster.local A":              app,
			"+search app A":                                app,
			"_http._tcp.app.default.svc.cluster.local SRV": `0 100 80 app.default.svc.cluster.local.`,
			"_sql._tcp.db.default.svc.cluster.local SRV":   `0 100 5432 db-0.db.default.svc.cluster.local.`,
			"-x " + app:                               `app.default.svc.cluster.local.`,
			"-x " + db:                                `db-0.db.default.svc.cluster.local.`,
			"elsewhere.default.svc.cluster.local A":   `app.default.svc.cluster.local.\n` + app,
			"dns-version.cluster.local TXT":           `"1.1.0"`,
			"10-42-99-99.default.pod.cluster.local A": ``,
			"www.example.com A":                       `192.0.2.1`,
		} {
			s.says("kubectl exec resolver -- dig +short "+network+" "+question, want)
		}
		s.says("kubectl exec resolver -- dig "+network+" nobody.default.svc.cluster.local", `(?s).*status: NXDOMAIN.*cluster\.local\.\s+5\s+IN\s+SOA.*`)
		s.says("kubectl exec resolver -- dig "+network+" app.default.svc.cluster.local AAAA", `(?s).*status: NOERROR.*cluster\.local\.\s+5\s+IN\s+SOA.*`)
	}
}

func testDNSLog(t *testing.T, s *shell) {
	skiff := repository("bin/skiff")
	where := " --data-dir " + s.data + " --run-dir " + s.run
	// The log begins at some time after the command: until it has shown a line, there is something to show. One more line
	// tells it that nobody reads any more.
	ask := "kubectl exec resolver -- musl-lookup musl-was-here.www.example.com. >/dev/null 2>&1; "
	s.says("timeout 60 "+skiff+" dns log --pod resolver"+where+" | grep -m1 musl-was-here & log=$!; "+
		"while kill -0 $log 2>/dev/null; do "+ask+"done; "+ask+"wait $log",
		`\S+ 10\.42\.\d+\.\d+ musl-was-here\.www\.example\.com\. (A|AAAA) NXDOMAIN 0 answers, \d+ bytes, from (upstream|cache), \S+`)
	s.says(skiff+" dns dump --run-dir "+s.run+" | grep -c '^app.default.svc.cluster.local.'", "1")
	s.fails(skiff+" dns dump --run-dir /nonexistent/run", 1, `skiff: no DNS server answers at /nonexistent/run/dns.sock: .*`)
	s.fails(skiff+" dns log --pod nobody"+where, 1, `skiff: pods "nobody" not found`)
	s.says("kubectl exec resolver -- wget -q -O- http://kube-dns.kube-system:9153/metrics | grep -c skiff_dns_names", "[1-9]")
}

// testWithoutUpstream takes the resolver outside away. What it said holds for a second only.
func testWithoutUpstream(t *testing.T, s *shell, off func()) {
	s.says("kubectl exec resolver -- musl-lookup www.example.com.", "192.0.2.1")
	off()
	s.until("kubectl exec resolver -- dig www.example.com", `(?s).*status: NOERROR.*EDE: 3 \(Stale Answer\).*www\.example\.com\.\s+30\s+IN\s+A\s+192\.0\.2\.1.*`)
	s.says("kubectl exec resolver -- musl-lookup www.example.com.", "192.0.2.1")
	s.says("kubectl exec resolver -- dig +tries=1 other.example.com", `(?s).*status: SERVFAIL.*`)
}

// testDNSRestart kills the server while the node asks as fast as it can.
func testDNSRestart(t *testing.T, n *node) {
	s := n.shell(t)
	app := netip.MustParseAddr(s.do("kubectl get service app -o jsonpath={.spec.clusterIP}"))
	ctx, stop := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer stop()
	var right, none atomic.Int64
	for _, name := range []string{"app.default.svc.cluster.local.", "nobody.default.svc.cluster.local."} {
		asking.Go(func() {
			for ctx.Err() == nil {
				reply, err := n.ask(ctx, clusterDNS, name)
				switch {
				case err != nil || reply.Rcode == dns.RcodeServerFailure:
					none.Add(1)
				case strings.HasPrefix(name, "nobody") && reply.Rcode == dns.RcodeNameError:
					right.Add(1)
				case reply.Rcode == dns.RcodeSuccess && len(reply.Answer) == 1 && reply.Answer[0].(*dns.A).A.String() == app.String():
					right.Add(1)
				default:
					t.Errorf("a wrong answer:\n%v", reply)
					return
				}
			}
		})
	}
	more := func() {
		t.Helper()
		before := right.Load()
		eventually(t, patience, func() error {
			if right.Load() < before+100 {
				return fmt.Errorf("%d answers", right.Load()-before)
			}
			return nil
		})
	}
	more()
	for _, way := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		n.stop(way)
		n.start()
		more()
		s.says("kubectl exec resolver -- musl-lookup app", app.String())
	}
	t.Logf("%d right answers, %d times none", right.Load(), none.Load())
}

// ask asks a server from the node.
func (n *node) ask(ctx context.Context, server, name string) (*dns.Msg, error) {
	conn, err := dialIn(ctx, n.netns, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	question := new(dns.Msg)
	question.SetQuestion(name, dns.TypeA)
	reply, _, err := (&dns.Client{Timeout: time.Second}).ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: conn})
	return reply, err
}

func testAutopath(t *testing.T, n *node) {
	n.flags = append(n.flags, "--dns-autopath")
	n.stop(syscall.SIGTERM)
	n.start()
	n.serveDNS()
	s := n.shell(t)
	s.until("kubectl exec resolver -- musl-lookup www.example.com", "192.0.2.1")
	before := s.asked()
	s.says("kubectl exec resolver -- musl-lookup www.example.com", "192.0.2.1")
	if got := s.asked() - before; got != 2 {
		t.Errorf("an outside name costs %d questions, want 2", got)
	}
	s.says("kubectl exec resolver -- dig +short www.example.com.default.svc.cluster.local A", `www\.example\.com\.\n192\.0\.2\.1`)
	s.says("kubectl exec resolver -- dig nobody.default.svc.cluster.local A", `(?s).*status: NXDOMAIN.*`)
}

// TestDNSWithoutTheAPI runs the DNS server alone, and takes the API server away.
func TestDNSWithoutTheAPI(t *testing.T) {
	n := newNode(t, "--no-agent")
	n.launch()
	n.awaitLog("the API answers")
	s := n.shell(t)
	s.do("kubectl create service clusterip web --tcp=80 && kubectl create service clusterip other --tcp=80")
	const address = "127.0.0.53"
	cmd := in(n.netns, repository("bin/skiff"), "dns", "--kubeconfig", s.config, "--address", address, "--run-dir", n.run)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("skiff dns: %v", err)
		}
	}()
	rcode := func(name string) func() error {
		return func() error {
			reply, err := n.ask(context.Background(), address+":53", name+".default.svc.cluster.local.")
			if err == nil && reply.Rcode != dns.RcodeSuccess {
				err = fmt.Errorf("%s: %s", name, dns.RcodeToString[reply.Rcode])
			}
			return err
		}
	}
	eventually(t, patience, rcode("web"))
	n.stop(syscall.SIGKILL)
	for _, name := range []string{"web", "other", "web"} {
		if err := rcode(name)(); err != nil {
			t.Errorf("without the API server: %v", err)
		}
	}
	if err := rcode("nobody")(); err == nil || err.Error() != "nobody: NXDOMAIN" {
		t.Errorf("without the API server: nobody: %v", err)
	}
	n.launch()
	n.awaitLog("the API answers")
	s.do("kubectl create service clusterip late --tcp=80")
	eventually(t, patience, rcode("late"))
}
