package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
)

func statusCommand() *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether the cluster is up and how it is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.absolute(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			return d.status(ctx, cmd.OutOrStdout())
		},
	}
	d.flags(cmd)
	return cmd
}

func (d dirs) status(ctx context.Context, out io.Writer) error {
	pid, ok := d.running()
	if !ok {
		return fmt.Errorf("no server runs for the cluster in %s: start it with `skiff up`", d.data)
	}
	config, err := clientcmd.BuildConfigFromFlags("", d.kubeconfig())
	if err != nil {
		return fmt.Errorf("read %s: %w", d.kubeconfig(), err)
	}
	client, err := newClient(config)
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("the server (process %d) runs, but its API does not answer: %w", pid, err)
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "server\tprocess %d, %s resident\n", pid, residentOf(pid))
	fmt.Fprintf(w, "API\t%s\n", config.Host)
	fmt.Fprintf(w, "kubeconfig\t%s\n", d.kubeconfig())
	for _, n := range nodes.Items {
		fmt.Fprintf(w, "node\t%s, %s\n", n.Name, readiness(n.Status.Conditions))
	}
	fmt.Fprintf(w, "pods\t%d, %d of them Running\n", len(pods.Items), countRunning(pods.Items))
	return w.Flush()
}

func readiness(conditions []corev1.NodeCondition) string {
	for _, c := range conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return "Ready"
		} else if c.Type == corev1.NodeReady {
			return "not Ready: " + c.Message
		}
	}
	return "not Ready: it has not reported yet"
}

func countRunning(pods []corev1.Pod) (n int) {
	for _, p := range pods {
		if p.Status.Phase == corev1.PodRunning {
			n++
		}
	}
	return n
}

// residentOf is the memory that a process holds, as the kernel counts it.
func residentOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "unknown"
}
