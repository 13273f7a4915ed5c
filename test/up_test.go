package test

import (
	"os"
	"strings"
	"testing"
)

// TestUp runs the two commands of the README, where no registry can be reached.
func TestUp(t *testing.T) {
	n := newNode(t)
	if err := os.RemoveAll(n.data); err != nil {
		t.Fatal(err)
	}
	s := n.shell(t)
	s.folder = repository(".")
	s.env = []string{"SKIFF_DATA_DIR=" + n.data, "SKIFF_RUN_DIR=" + n.run, "SKIFF_REGISTRY=off", "HOME=" + os.Getenv("HOME")}

	first := s.do("make up")
	for _, want := range []string{
		"\nimage: nginx is made here of Debian packages, as docker.io does not answer\n",
		"\nthe cluster is up after ",
		"\ndeployment.apps/app1 created\n", "\nservice/app1-service created\n",
		"\ndeployment.apps/app2 created\n", "\nservice/app2-service created\n",
		"\ndeployment.apps/app2 condition met\n",
		"\n<title>Welcome to nginx!</title>\n",
		"\nkubeconfig: " + n.data + "/admin.kubeconfig\n",
		"\ntry next:   bin/skiff kubectl ",
	} {
		if !strings.Contains(first, want) {
			t.Errorf("make up does not say %q:\n%s", want, first)
		}
	}

	s.do("kubectl scale deployment app2 --replicas=2")
	const pods = "kubectl get pods -o jsonpath='{.items[*].metadata.uid}'"
	s.until("kubectl get deployment app2 --no-headers", `app2 +2/2 .*`)
	before := s.do(pods)
	if second := s.do("make up"); !strings.Contains(second, "\nthe cluster is up already, and was left as it is\n") {
		t.Errorf("the second make up says:\n%s", second)
	}
	if after := s.do(pods); after != before {
		t.Errorf("the second make up has changed the pods from %s to %s", before, after)
	}
	s.do("make down")
	n.removed = true // Whether all is gone is looked at when the test ends, as always.
}
