package proxy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/control"
)

// TestControl asks a running proxy what it does.
func TestControl(t *testing.T) {
	c := oneFamily().newCluster(t)
	c.create(newTestService("web", "10.43.0.80"), "10.42.0.11")
	config := testConfig()
	config.Socket = filepath.Join(t.TempDir(), "run", "proxy.sock")
	m := &shared{}
	c.startAs(config, m)

	t.Run("dump", func(t *testing.T) {
		var b strings.Builder
		must(t, control.Get(t.Context(), config.Socket, "/dump", &b))
		if want := "10.43.0.80 . tcp . 80 . 0 : 10.42.0.11 . 8080, # default/web\n"; !strings.Contains(b.String(), want) {
			t.Errorf("the dump has no line %s:\n%s", want, b.String())
		}
		nft, err := exec.LookPath("nft")
		if err != nil || os.Getuid() != 0 {
			t.Skip("needs the nft program and root")
		}
		cmd := exec.Command(nft, "-c", "-f", "-")
		cmd.Stdin = strings.NewReader(b.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("nft cannot read it: %v\n%s", err, out)
		}
	})

	t.Run("metrics", func(t *testing.T) {
		m.mu.Lock()
		m.elements = nil // Somebody removed the table.
		m.mu.Unlock()
		m.changed()
		must(t, c.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
		for _, want := range []string{
			`(?m)^skiff_proxy_drift_repaired_total\{what="tables"\} 1$`,
			`(?m)^skiff_proxy_elements\{map="services4"\} 0$`,
			`(?m)^skiff_proxy_programming_duration_seconds_count [1-9]`,
			`(?m)^skiff_proxy_connections_forgotten_total 0$`,
		} {
			eventually(t, "metrics that match "+want, func() bool { return regexp.MustCompile(want).MatchString(scrape(t, config.Socket)) })
		}
	})
}

func scrape(t *testing.T, socket string) string {
	t.Helper()
	var b strings.Builder
	must(t, control.Get(t.Context(), socket, "/metrics", &b))
	return b.String()
}

func TestDumpTellsWhatNumbersMean(t *testing.T) {
	r := readRuleset(t, "testdata/policy.yaml")
	r.enforce()
	for _, want := range []string{
		"10.42.0.11 : 105301185, # member:shop/front; ingress, shop/front/ingress/0\n",
		"105301185 : f925:1cb9, # policies; ingress, shop/front/ingress/0; tcp/80-80 tcp/8000-8010 udp/53-53\n",
	} {
		if dump := r.Dump(); !strings.Contains(dump, want) {
			t.Errorf("the dump does not say %q:\n%s", want, dump)
		}
	}
}
