package apiserver

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"skiff/api"
)

// kubectlPatience is how long one kubectl may take on a machine that is busy.
const kubectlPatience = 2 * time.Minute

// kubectl is a real kubectl that speaks to a server over TLS.
type kubectl struct {
	path, home, server string
}

// kubectls are the one that skiff is built with (bin/kubectl, by make build) and the one on PATH, as far as they are there.
func kubectls(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	if built, err := filepath.Abs("../bin/kubectl"); err == nil {
		if _, err := os.Stat(built); err == nil {
			found["built"] = built
		}
	}
	if path, err := exec.LookPath("kubectl"); err == nil {
		found["path"] = path
	}
	if len(found) == 0 {
		t.Skip("no kubectl: neither bin/kubectl (make build) nor one on PATH")
	}
	return found
}

func (s *running) kubectl(t *testing.T, path string) kubectl {
	t.Helper()
	return kubectl{path, t.TempDir(), s.web(t).URL}
}

// run returns what kubectl says, and whether it did well.
func (k kubectl) run(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kubectlPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.path, append([]string{"--server", k.server, "--insecure-skip-tls-verify", "--token", "none"}, args...)...) // It asks for a password where it has no token.
	cmd.Env = append(os.Environ(), "HOME="+k.home, "KUBECONFIG="+filepath.Join(k.home, "none"))
	cmd.Dir = k.home
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// step is one command, the stdin it gets, and the regular expression that its words must match.
type step struct {
	command string
	stdin   string
	want    string
	fails   bool
}

func (k kubectl) steps(t *testing.T, steps []step) {
	t.Helper()
	for _, st := range steps {
		out, err := k.run(t, st.stdin, strings.Fields(st.command)...)
		if (err != nil) != st.fails {
			t.Fatalf("kubectl %s: error %v\n%s", st.command, err, out)
		}
		if !regexp.MustCompile(st.want).MatchString(out) {
			t.Errorf("kubectl %s says\n%s\nwant it to match %s", st.command, out, st.want)
		}
	}
}

func (k kubectl) write(t *testing.T, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(k.home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// eachKubectl runs a test with each kubectl there is, against a server of its own.
func eachKubectl(t *testing.T, test func(t *testing.T, k kubectl)) {
	for name, path := range kubectls(t) {
		t.Run(name, func(t *testing.T) { test(t, start(t).kubectl(t, path)) })
	}
}

// keyPair borrows a certificate and its key, in PEM, from a server that has one.
func keyPair(t *testing.T) (certificate, key string) {
	t.Helper()
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	pair := web.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// What kubectl can create without a manifest arrives as it should.
func TestKubectlCreates(t *testing.T) {
	eachKubectl(t, func(t *testing.T, k kubectl) {
		certificate, key := keyPair(t)
		k.write(t, map[string]string{"key.pem": key, "cert.pem": certificate, "data/a.txt": "x\n"})
		k.steps(t, []step{
			{command: "create namespace team", want: "namespace/team created"},
			{command: "create deployment web --image=nginx --replicas=2 --port=80", want: "deployment.apps/web created"},
			{command: "get deployment web -o jsonpath={.spec.replicas}/{.spec.template.spec.containers[0].ports[0].containerPort}", want: "^2/80$"},
			{command: "create job once --image=busybox -- true", want: "job.batch/once created"},
			{command: "create cronjob nightly --image=busybox --schedule=@daily -- true", want: "cronjob.batch/nightly created"},
			{command: "create job tonight --from=cronjob/nightly", want: "job.batch/tonight created"},
			{command: "get job tonight -o jsonpath={.metadata.ownerReferences[0].name}", want: "^nightly$"},
			{command: "create ingress site --rule=a.example/x*=web:80,tls=cert", want: "ingress.networking.k8s.io/site created"},
			{command: "get ingress", want: `site +<none> +a.example +80, 443`},
			{command: "create quota q --hard=pods=3,cpu=2", want: "resourcequota/q created"},
			{command: "create priorityclass high --value=1000 --description=first", want: "priorityclass.scheduling.k8s.io/high created"},
			{command: "create poddisruptionbudget b --selector=app=web --min-available=50%", want: "poddisruptionbudget.policy/b created"},
			{command: "create role r --verb=get,list --resource=pods,deployments.apps", want: "role.rbac.authorization.k8s.io/r created"},
			{command: "create rolebinding rb --role=r --user=jane --serviceaccount=default:default", want: "rolebinding.rbac.authorization.k8s.io/rb created"},
			{command: "create clusterrole cr --verb=get --resource=nodes", want: "clusterrole.rbac.authorization.k8s.io/cr created"},
			{command: "create clusterrolebinding crb --clusterrole=cr --group=readers", want: "clusterrolebinding.rbac.authorization.k8s.io/crb created"},
			{command: "create secret generic g --from-literal=a=b --from-file=data/a.txt", want: "secret/g created"},
			{command: "create secret tls tls --cert=cert.pem --key=key.pem", want: "secret/tls created"},
			{command: "create secret docker-registry reg --docker-server=r.example --docker-username=u --docker-password=p", want: "secret/reg created"},
			{command: "get secrets --field-selector=type=kubernetes.io/tls -o name", want: "^secret/tls\n$"},
			{command: "create configmap m --from-literal=a=b --from-file=data", want: "configmap/m created"},
			{command: "create service clusterip c --tcp=80:8080", want: "service/c created"},
			{command: "create service nodeport n --tcp=80", want: "service/n created"},
			{command: "create service loadbalancer l --tcp=80", want: "service/l created"},
			{command: "create service externalname e --external-name=e.example", want: "service/e created"},
			{command: "create serviceaccount robot", want: "serviceaccount/robot created"},
			{command: "run one --image=nginx --labels=app=one --port=80 --env=A=b", want: "pod/one created"},
			{command: "run two --image=nginx --restart=Never --dry-run=server -o name", want: "^pod/two\n$"},
			{command: "expose pod one --port=80 --name=one", want: "service/one exposed"},
			{command: "expose deployment web --port=80 --target-port=http --type=NodePort", want: "service/web exposed"},
			{command: "autoscale deployment web --min=1 --max=3 --cpu-percent=60", want: "horizontalpodautoscaler.autoscaling/web autoscaled"},
			{command: "get hpa web", want: `web +Deployment/web +cpu: <unknown>/60% +1 +3 +0`},
			{command: "get horizontalpodautoscalers.v1.autoscaling web -o jsonpath={.spec.targetCPUUtilizationPercentage}", want: "^60$"},
			{command: "get all", want: `(?s)pod/one.*service/web.*deployment.apps/web.*horizontalpodautoscaler.autoscaling/web.*cronjob.batch/nightly.*job.batch/once`},
		})
	})
}

// What is there is changed in all the ways that kubectl has.
func TestKubectlChanges(t *testing.T) {
	eachKubectl(t, func(t *testing.T, k kubectl) {
		k.write(t, map[string]string{
			"kustomize/kustomization.yaml": "resources: [m.yaml]\nnamePrefix: pre-\ncommonLabels: {by: kustomize}\n",
			"kustomize/m.yaml":             "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1'}\n",
			"prune/a.yaml":                 "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {set: s}}\n",
			"prune/b.yaml":                 "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, labels: {set: s}}\n",
			"pod.yaml":                     "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: nginx}]}\n",
			"pod2.yaml":                    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: d, image: nginx}]}\n",
			"cm.yaml":                      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: diffed}\ndata: {a: '2'}\n",
		})
		k.steps(t, []step{
			{command: "create deployment web --image=nginx", want: "created"},
			{command: "set image deployment/web nginx=nginx:1.29", want: "deployment.apps/web image updated"},
			{command: "set env deployment/web A=b", want: "deployment.apps/web env updated"},
			{command: "set resources deployment/web --limits=cpu=1,memory=64Mi", want: "deployment.apps/web resource requirements updated"},
			{command: "create serviceaccount robot", want: "created"},
			{command: "set serviceaccount deployment/web robot", want: "deployment.apps/web serviceaccount updated"},
			{command: "get deployment web -o jsonpath={.spec.template.spec.containers[0].image},{.spec.template.spec.containers[0].env[0].value},{.spec.template.spec.containers[0].resources.limits.memory},{.spec.template.spec.serviceAccountName},{.metadata.generation}",
				want: "^nginx:1.29,b,64Mi,robot,5$"},
			{command: "create service clusterip s --tcp=80", want: "created"},
			{command: "set selector service/s app=web", want: "service/s selector updated"},
			{command: "create rolebinding rb --clusterrole=view --user=jane", want: "created"},
			{command: "set subject rolebinding/rb --user=joe", want: "rolebinding.rbac.authorization.k8s.io/rb subjects updated"},
			{command: "annotate deployment web note=x", want: "deployment.apps/web annotated"},
			{command: "label deployment web tier=front --overwrite", want: "deployment.apps/web labeled"},
			{command: "scale deployment web --replicas=3 --current-replicas=1", want: "deployment.apps/web scaled"},
			{command: "patch deployment web --subresource=status --type=merge -p {\"status\":{\"readyReplicas\":5}}", fails: true,
				want: `status.readyReplicas: Invalid value: 5: cannot be greater than status.replicas`},
			{command: "apply -k kustomize", want: "configmap/pre-m created"},
			{command: "get cm -l by=kustomize -o name", want: "^configmap/pre-m\n$"},
			{command: "apply -f prune", want: "(?s)configmap/a created.*configmap/b created"},
			{command: "apply --prune -l set=s -f prune/a.yaml --prune-allowlist=core/v1/ConfigMap", want: "(?s)configmap/a unchanged.*configmap/b pruned"},
			{command: "apply -f pod.yaml", want: "pod/p created"},
			{command: "replace -f pod2.yaml", fails: true, want: "pod updates may not change fields other than"},
			{command: "replace --force -f pod2.yaml", want: `(?s)pod "p" deleted.*pod/p replaced`},
			{command: "delete pod p --wait=false", want: `pod "p" deleted`},
			{command: "wait --for=delete pod/p --timeout=60s", want: ""},
			{command: "create configmap diffed --from-literal=a=1", want: "created"},
			{command: "diff -f cm.yaml", fails: true, want: `(?m)^\+ +a: "2"`},
			{command: "apply --server-side --force-conflicts -f cm.yaml", want: "configmap/diffed serverside-applied"},
			{command: "diff -f cm.yaml", want: "^$"},
			{command: "get --raw /api/v1/namespaces/default/configmaps/diffed", want: `"a":"2"`},
			{command: "create -f - ", stdin: "apiVersion: events.k8s.io/v1\nkind: Event\nmetadata: {name: e}\neventTime: 2026-01-02T03:04:05.000006Z\ntype: Normal\nreason: R\naction: A\nreportingController: a.b/c\nreportingInstance: i\nregarding: {apiVersion: v1, kind: Pod, name: p, namespace: default}\nnote: hello\n",
				want: "event.events.k8s.io/e created"},
			{command: "get events", want: `Normal +R +pod/p +hello`},
			{command: "events --for=pod/p", want: `Normal +R +Pod/p +hello`},
			{command: "get cs", want: `(?s)v1 ComponentStatus is deprecated in v1.19\+.*etcd-0 +Healthy +ok`},
			{command: "get servicecidrs", want: `kubernetes +10.43.0.0/16`},
			{command: "cluster-info", want: "Kubernetes control plane.* is running at"},
			{command: "api-versions", want: `(?s)autoscaling/v1\nautoscaling/v2\n.*events.k8s.io/v1\n.*\nv1\n`},
			{command: "delete deployment,service,configmap --all", want: `(?s)deployment.apps "web" deleted.*configmap "diffed" deleted`},
			{command: "get pods --field-selector=spec.foo=x", fails: true, want: "field label not supported: spec.foo"},
		})
	})
}

// Every kind is listed by api-resources, and explained to its last field.
func TestKubectlKnowsEveryKind(t *testing.T) {
	eachKubectl(t, func(t *testing.T, k kubectl) {
		listed, err := k.run(t, "", "api-resources", "--no-headers")
		if err != nil {
			t.Fatalf("api-resources: %v\n%s", err, listed)
		}
		for _, r := range api.Table() {
			if r.View == nil && !regexp.MustCompile(`(?m)^`+r.Name+` .* `+regexp.QuoteMeta(r.GroupVersion().String())+` +(true|false) +`+r.Kind+`$`).MatchString(listed) {
				t.Errorf("api-resources lacks %s in\n%s", r.GroupResource(), listed)
			}
			args := []string{"explain", r.Name, "--recursive", "--api-version=" + r.GroupVersion().String()}
			out, err := k.run(t, "", args...)
			if err != nil || !strings.Contains(out, "KIND:       "+r.Kind+"\n") || !strings.Contains(out, "FIELDS:") || strings.Count(out, "\n") < 8 {
				t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	})
}
