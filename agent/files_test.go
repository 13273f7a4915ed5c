package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// objects are the ConfigMaps and Secrets of a test.
type objects struct {
	configMaps map[string]map[string]string
	secrets    map[string]map[string][]byte
}

func (o objects) configMap(_ context.Context, _ *v1.Pod, name string) (*v1.ConfigMap, error) {
	if data, ok := o.configMaps[name]; ok {
		return &v1.ConfigMap{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (o objects) secret(_ context.Context, _ *v1.Pod, name string) (*v1.Secret, error) {
	if data, ok := o.secrets[name]; ok {
		return &v1.Secret{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (o objects) token(_ context.Context, _ *v1.Pod, p *v1.ServiceAccountTokenProjection) (token, error) {
	return token{text: "for " + p.Audience}, nil
}

func TestEnvironment(t *testing.T) {
	yes := true
	fromMap := func(name, key string, optional *bool) *v1.EnvVarSource {
		return &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: name}, Key: key, Optional: optional}}
	}
	field := func(path string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
	}
	limit := func(name, divisor string) *v1.EnvVarSource {
		return &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: name, Divisor: resource.MustParse(divisor)}}
	}
	from := objects{
		configMaps: map[string]map[string]string{"settings": {"COLOUR": "blue", "not=a name": "x"}},
		secrets:    map[string]map[string][]byte{"keys": {"TOKEN": []byte("s3cret")}},
	}
	for _, tc := range []struct {
		name    string
		env     []v1.EnvVar
		envFrom []v1.EnvFromSource
		whole   v1.ResourceList
		want    string
		err     string
	}{
		{name: "plain, and a later value wins", env: []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}, {Name: "A", Value: "3"}}, want: "SVC=10.43.0.1 A=3 B=2"},
		{name: "references", env: []v1.EnvVar{{Name: "A", Value: "x"}, {Name: "B", Value: "$(A)$(A) $$(A) $(SVC) $(NOPE) $"}}, want: "SVC=10.43.0.1 A=x B=xx $(A) 10.43.0.1 $(NOPE) $"},
		{name: "over a service's", env: []v1.EnvVar{{Name: "SVC", Value: "mine"}}, want: "SVC=mine"},
		{name: "all of a map and of a secret", envFrom: []v1.EnvFromSource{
			{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}}},
			{Prefix: "K_", SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "keys"}}},
		}, want: "SVC=10.43.0.1 COLOUR=blue K_TOKEN=s3cret"},
		{name: "all of a map that is not there", envFrom: []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "nope"}}}},
			err: `configmaps "nope" not found`},
		{name: "one key", env: []v1.EnvVar{{Name: "A", ValueFrom: fromMap("settings", "COLOUR", nil)}}, want: "SVC=10.43.0.1 A=blue"},
		{name: "a missing key", env: []v1.EnvVar{{Name: "A", ValueFrom: fromMap("settings", "NOPE", nil)}}, err: "couldn't find key NOPE in ConfigMap default/settings"},
		{name: "optional ones", env: []v1.EnvVar{{Name: "A", ValueFrom: fromMap("settings", "NOPE", &yes)}, {Name: "B", ValueFrom: fromMap("nope", "x", &yes)}}, want: "SVC=10.43.0.1"},
		{name: "the pod's fields", env: []v1.EnvVar{{Name: "A", ValueFrom: field("metadata.name")}, {Name: "B", ValueFrom: field("status.podIP")},
			{Name: "C", ValueFrom: field("metadata.labels['app']")}, {Name: "D", ValueFrom: field("status.hostIP")}}, want: "SVC=10.43.0.1 A=web B=10.42.0.2 C=shop D=192.0.2.1"},
		{name: "all of its addresses, and the node's", env: []v1.EnvVar{{Name: "A", ValueFrom: field("status.podIPs")}, {Name: "B", ValueFrom: field("status.hostIPs")}},
			want: "SVC=10.43.0.1 A=10.42.0.2,fd00:42::2 B=192.0.2.1,2001:db8::1"},
		{name: "a field that is none", env: []v1.EnvVar{{Name: "A", ValueFrom: field("spec.nope")}}, err: "unsupported fieldPath: spec.nope"},
		{name: "resources", env: []v1.EnvVar{{Name: "A", ValueFrom: limit("limits.cpu", "0")}, {Name: "B", ValueFrom: limit("limits.cpu", "1m")},
			{Name: "C", ValueFrom: limit("limits.memory", "1Mi")}, {Name: "D", ValueFrom: limit("requests.memory", "0")}}, want: "SVC=10.43.0.1 A=1 B=250 C=4096 D=0"},
		{name: "the limits of the whole pod", whole: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("64Mi")},
			env: []v1.EnvVar{{Name: "A", ValueFrom: limit("limits.cpu", "1m")}, {Name: "B", ValueFrom: limit("limits.memory", "1Mi")}}, want: "SVC=10.43.0.1 A=250 B=64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: map[string]string{"app": "shop"}}}
			pod.Spec.Resources = &v1.ResourceRequirements{Limits: tc.whole}
			c := &v1.Container{Name: "app", Env: tc.env, EnvFrom: tc.envFrom, Resources: v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")}}}
			env, err := environment(t.Context(), pod, c, place{nodeIPs: []string{"192.0.2.1", "2001:db8::1"}, network: &PodNetwork{IPs: []string{"10.42.0.2", "fd00:42::2"}}}, map[string]string{"SVC": "10.43.0.1"},
				v1.ResourceList{v1.ResourceMemory: resource.MustParse("4Gi")}, nil, from)
			if err != nil || tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || tc.err == "" {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, strings.Join(env.list(), " ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestServiceVariables(t *testing.T) {
	service := func(namespace, name, ip string, ports ...v1.ServicePort) *v1.Service {
		return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	services := []*v1.Service{
		service("default", "kubernetes", "10.43.0.1", v1.ServicePort{Name: "https", Port: 443, Protocol: v1.ProtocolTCP}),
		service("shop", "app2-service", "10.43.7.7", v1.ServicePort{Port: 80}),
		service("shop", "headless", v1.ClusterIPNone, v1.ServicePort{Port: 80}),
		service("other", "app", "10.43.7.8", v1.ServicePort{Port: 80}),
	}
	api := map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.43.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.43.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
		"KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.43.0.1",
	}
	if diff := cmp.Diff(api, serviceVariables(services, "shop", false)); diff != "" {
		t.Errorf("without links (-want +got):\n%s", diff)
	}
	got := serviceVariables(services, "shop", true)
	if got["APP2_SERVICE_SERVICE_HOST"] != "10.43.7.7" || got["APP2_SERVICE_PORT_80_TCP"] != "tcp://10.43.7.7:80" || len(got) != len(api)+7 {
		t.Errorf("with links: %v", got)
	}
}

func TestResolvConf(t *testing.T) {
	const nodeConf = "# the node's\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch lab.example\noptions edns0\n"
	value := "2"
	both := []string{"10.43.0.10", "fd00:43::a"}
	one := both[:1]
	for _, tc := range []struct {
		name       string
		clusterDNS []string
		spec       v1.PodSpec
		want       string
	}{
		{"cluster first", one, v1.PodSpec{}, "search shop.svc.cluster.local svc.cluster.local cluster.local lab.example\nnameserver 10.43.0.10\noptions ndots:5\n"},
		{"a cluster of both families", both, v1.PodSpec{}, "search shop.svc.cluster.local svc.cluster.local cluster.local lab.example\nnameserver 10.43.0.10\nnameserver fd00:43::a\noptions ndots:5\n"},
		{"a node without a cluster's DNS", nil, v1.PodSpec{}, "search lab.example\nnameserver 192.0.2.53\noptions edns0\n"},
		{"default", one, v1.PodSpec{DNSPolicy: v1.DNSDefault}, "search lab.example\nnameserver 192.0.2.53\noptions edns0\n"},
		{"cluster first on the host's network", one, v1.PodSpec{HostNetwork: true, DNSPolicy: v1.DNSClusterFirst}, "search lab.example\nnameserver 192.0.2.53\noptions edns0\n"},
		{"the cluster's all the same", one, v1.PodSpec{HostNetwork: true, DNSPolicy: v1.DNSClusterFirstWithHostNet},
			"search shop.svc.cluster.local svc.cluster.local cluster.local lab.example\nnameserver 10.43.0.10\noptions ndots:5\n"},
		{"none", one, v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}, Searches: []string{"x.example"}}},
			"search x.example\nnameserver 192.0.2.9\n"},
		{"with a configuration of its own", one, v1.PodSpec{DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &value}, {Name: "edns0"}}}},
			"search shop.svc.cluster.local svc.cluster.local cluster.local lab.example\nnameserver 10.43.0.10\nnameserver 192.0.2.9\noptions ndots:2 edns0\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: tc.spec}
			if diff := cmp.Diff(tc.want, resolvConf(pod, tc.clusterDNS, "cluster.local", nodeConf)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestKernelHostname(t *testing.T) {
	yes := true
	for _, tc := range []struct {
		name, want string
		spec       v1.PodSpec
	}{
		{"web", "web", v1.PodSpec{Subdomain: "front"}},
		{"web", "web", v1.PodSpec{SetHostnameAsFQDN: &yes}},
		{"web", "web.front.shop.svc.cluster.local", v1.PodSpec{SetHostnameAsFQDN: &yes, Subdomain: "front"}},
		{"web", "node-1", v1.PodSpec{SetHostnameAsFQDN: &yes, Subdomain: "front", HostNetwork: true}},
		{strings.Repeat("w", 40), "", v1.PodSpec{SetHostnameAsFQDN: &yes, Subdomain: "front"}},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: tc.name}, Spec: tc.spec}
		got, err := kernelHostname(pod, "node-1", "cluster.local")
		if got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("pod %s with %+v: %q, %v; want %q", tc.name, tc.spec, got, err, tc.want)
		}
	}
}

func TestHostsFile(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: v1.PodSpec{
		Subdomain: "front", HostAliases: []v1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"a", "b"}}},
	}}
	want := "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n" +
		"10.42.0.2\tweb.front.shop.svc.cluster.local\tweb\n\n# Entries added by HostAliases.\n192.0.2.7\ta\tb\n"
	if diff := cmp.Diff(want, hostsFile(pod, []string{"10.42.0.2"}, "web", "cluster.local", "")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	pod.Spec.HostnameOverride = new("other")
	want = strings.Replace(want, "web.front.shop.svc.cluster.local\tweb", "other", 1)
	if diff := cmp.Diff(want, hostsFile(pod, []string{"10.42.0.2"}, "other", "cluster.local", "")); diff != "" {
		t.Errorf("with another hostname for all (-want +got):\n%s", diff)
	}
}

// tree reads a volume through its links, as a container does.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		root, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			rest, _ := filepath.Rel(root, path)
			got[filepath.Join(e.Name(), rest)] = string(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func TestVolumeFollowsItsObject(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "settings")
	for step, want := range []map[string]string{
		{"a": "1", "b": "2"}, {"a": "1", "b": "2"}, {"a": "changed", "sub/c": "3", "sub/d": "4"}, {}, {"a": "back"},
	} {
		files := map[string]file{}
		for path, content := range want {
			files[path] = file{content: []byte(content), mode: 0o644}
		}
		if err := writeVolume(dir, files, nil); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", step, diff)
		}
		versions, err := filepath.Glob(filepath.Join(dir, "..[0-9]*"))
		if err != nil || len(versions) != 1 {
			t.Errorf("step %d left the versions %v, want one", step, versions)
		}
		if step == 1 && filepath.Base(versions[0]) != "..1" {
			t.Errorf("the same files were written again: %v", versions)
		}
	}
}

// What an agent leaves undone that is killed after it has replaced the files, the next one does.
func TestVolumeOfKilledAgent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "settings")
	files := map[string]file{"a": {content: []byte("1"), mode: 0o644}, "b": {content: []byte("2"), mode: 0o644}}
	if err := writeVolume(dir, files, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "a")), os.Symlink("..data/old", filepath.Join(dir, "old")), os.Mkdir(filepath.Join(dir, "..0"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := writeVolume(dir, files, nil); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("the volume has %v (%v), want ..1, ..data, a and b", entries, err)
	}
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "2"}, tree(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNoPathLeadsOut(t *testing.T) {
	data := map[string][]byte{"key": []byte("x")}
	for _, path := range []string{"../x", "/etc/x", "a/../../x", "..", "..data", "."} {
		if _, err := pickFiles(data, []v1.KeyToPath{{Key: "key", Path: path}}, nil, false); err == nil {
			t.Errorf("items[0].path %q was accepted", path)
		}
	}
	for _, name := range []string{"..", "a/b", "", ".", "-", "x/../y"} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid"}, Spec: v1.PodSpec{Volumes: []v1.Volume{{Name: name}}}}
		if err := checkNames(pod); err == nil {
			t.Errorf("a volume named %q was accepted", name)
		}
		if err := (dirs{t.TempDir(), t.TempDir()}).removePod(name); err == nil {
			t.Errorf("a pod with the UID %q was removed", name)
		}
	}
	if err := checkHostPath(&v1.HostPathVolumeSource{Path: "/tmp/../etc"}); err == nil {
		t.Error("a hostPath with .. was accepted")
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != "" {
			l[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	for _, tc := range []struct {
		name           string
		request, limit v1.ResourceList
		want           Resources
	}{
		{"none", nil, nil, Resources{CPUShares: 2, OOMScoreAdj: 1000}},
		{"burstable", list("250m", "1Gi"), list("500m", ""), Resources{CPUShares: 256, CPUPeriod: 100000, CPUQuota: 50000, OOMScoreAdj: 750}},
		{"guaranteed", list("1", "1Gi"), list("1", "1Gi"), Resources{CPUShares: 1024, CPUPeriod: 100000, CPUQuota: 100000, MemoryLimit: 1 << 30, OOMScoreAdj: -997}},
		{"tiny", list("1m", ""), list("1m", ""), Resources{CPUShares: 2, CPUPeriod: 100000, CPUQuota: 1000, OOMScoreAdj: 999}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := v1.Container{Resources: v1.ResourceRequirements{Requests: tc.request, Limits: tc.limit}}
			pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{c}}}
			if diff := cmp.Diff(tc.want, resourcesOf(pod, &c, 4<<30)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestClassOfStaticPod finds the class of a pod that no API server has seen.
func TestClassOfStaticPod(t *testing.T) {
	some := v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Gi")}}
	none := v1.ResourceRequirements{}
	for _, tc := range []struct {
		whole     *v1.ResourceRequirements
		container v1.ResourceRequirements
		want      v1.PodQOSClass
	}{
		{nil, none, v1.PodQOSBestEffort},
		{nil, some, v1.PodQOSGuaranteed},
		{&some, none, v1.PodQOSGuaranteed},
		{&v1.ResourceRequirements{Requests: some.Limits}, some, v1.PodQOSBurstable},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{Resources: tc.whole, Containers: []v1.Container{{Resources: tc.container}}}}
		if got := qosClass(pod); got != tc.want {
			t.Errorf("whole %v, container %v: %s, want %s", tc.whole, tc.container, got, tc.want)
		}
	}
}

func TestRunAsNonRoot(t *testing.T) {
	zero, user := int64(0), int64(1000)
	for _, tc := range []struct {
		uid       *int64
		imageUser string
		want      string
	}{
		{&user, "", ""}, {&zero, "101", "breaks non-root policy"}, {nil, "101:0", ""}, {nil, "", "image will run as root"}, {nil, "0", "image will run as root"},
		{nil, "nginx", "non-numeric user (nginx)"},
	} {
		err := checkNonRoot(tc.uid, tc.imageUser)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("image user %q: error %v, want %q", tc.imageUser, err, tc.want)
		}
	}
}

// A file that a hostPath volume asks for is made where it says, and not where a link leads that somebody has put there.
func TestHostPathFileIsMade(t *testing.T) {
	dir := t.TempDir()
	kind := v1.HostPathFileOrCreate
	ask := func(name string) error {
		return checkHostPath(&v1.HostPathVolumeSource{Path: filepath.Join(dir, name), Type: &kind})
	}
	for range 2 {
		if err := ask("new"); err != nil {
			t.Error(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "made-by-the-agent")
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := ask("link"); err == nil {
		t.Error("a link that leads to nothing is taken for a place for a file")
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a file was made where a link leads")
	}
}

// What a link in a volume leads to does not count as the volume's.
func TestUsageStaysInside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(outside, "large"), make([]byte, 1<<20), 0o600), os.Mkdir(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub", "small"), make([]byte, 1<<13), 0o600), os.Symlink(outside, filepath.Join(dir, "link")),
		os.Symlink(filepath.Join(outside, "large"), filepath.Join(dir, "sub", "file"))); err != nil {
		t.Fatal(err)
	}
	if used := diskUsage(dir); used < 1<<13 || used > 1<<18 {
		t.Errorf("the volume uses %d bytes, want little more than 8192", used)
	}
	if used := diskUsage(filepath.Join(dir, "gone")); used != 0 {
		t.Errorf("what is not there uses %d bytes", used)
	}
}

// A seccomp profile is a file of the node's own folder for them, whatever its name says and links there lead to.
func TestSeccompProfileStaysInside(t *testing.T) {
	a := &Agent{dirs: dirs{data: t.TempDir()}}
	outside := filepath.Join(a.dirs.data, "outside.json")
	dir := a.dirs.seccomp()
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(outside, []byte("{}"), 0o600), os.WriteFile(filepath.Join(dir, "own.json"), []byte("{}"), 0o600),
		os.Symlink("../outside.json", filepath.Join(dir, "link.json"))); err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{"own.json": true, "../outside.json": false, "link.json": false, outside: false} {
		pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{LocalhostProfile: &name}}}}
		_, err := a.seccompProfile(pod, &v1.Container{}, Security{Seccomp: string(v1.SeccompProfileTypeLocalhost)})
		if (err == nil) != ok {
			t.Errorf("the profile %s: %v", name, err)
		}
	}
}
