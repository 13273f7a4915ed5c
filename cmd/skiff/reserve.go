package main

import (
	"fmt"
	"time"

	"skiff/agent"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// reserve are the flags that say what of this machine pods do not get.
type reserve struct {
	evictionHard                 string
	evictionPause                time.Duration
	systemReserved, kubeReserved map[string]string

	thresholds []agent.Threshold
	reserved   corev1.ResourceList // Both together.
}

func (r *reserve) flags(f *pflag.FlagSet) {
	f.StringVar(&r.evictionHard, "eviction-hard", agent.DefaultEvictionHard, "how little may be left of what before pods are evicted")
	f.DurationVar(&r.evictionPause, "eviction-pressure-transition-period", 5*time.Minute, "how long the node is said to be short of something that it is not short of any more")
	f.StringToStringVar(&r.systemReserved, "system-reserved", nil, "what is kept from pods for the machine, like cpu=200m,memory=500Mi,ephemeral-storage=1Gi")
	f.StringToStringVar(&r.kubeReserved, "kube-reserved", nil, "the same for skiff and containerd")
}

func (r *reserve) parse() (err error) {
	if r.thresholds, err = agent.ParseThresholds(r.evictionHard); err != nil {
		return fmt.Errorf("--eviction-hard: %w", err)
	}
	r.reserved = corev1.ResourceList{}
	for flag, list := range map[string]map[string]string{"--system-reserved": r.systemReserved, "--kube-reserved": r.kubeReserved} {
		for name, text := range list {
			name := corev1.ResourceName(name)
			switch name {
			case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			default:
				return fmt.Errorf("%s %s=%s: only cpu, memory and ephemeral-storage can be reserved", flag, name, text)
			}
			amount, err := resource.ParseQuantity(text)
			if err != nil || amount.Sign() < 0 {
				return fmt.Errorf("%s %s=%s: it must be an amount, like 500Mi", flag, name, text)
			}
			sum := r.reserved[name]
			sum.Add(amount)
			r.reserved[name] = sum
		}
	}
	return nil
}
