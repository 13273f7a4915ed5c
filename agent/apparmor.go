package agent

import (
	"errors"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// A pod that names an AppArmor profile runs where there is AppArmor, or not at all.
// https://kubernetes.io/docs/tutorials/security/apparmor/

// reasonAppArmor is why a pod failed, as the kubelet spells it.
const reasonAppArmor = "AppArmor"

var errNoAppArmor = errors.New("Cannot enforce AppArmor: AppArmor is not enabled on the host")

// hasAppArmor says whether the kernel has it, and it is on.
func hasAppArmor() bool {
	text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(text), "Y")
}

// appArmorOf is the profile that a container asks for, its own before its pod's; nil for none.
func appArmorOf(pod *v1.Pod, c *v1.Container) *v1.AppArmorProfile {
	var profile *v1.AppArmorProfile
	if sc := pod.Spec.SecurityContext; sc != nil {
		profile = sc.AppArmorProfile
	}
	if sc := c.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
		profile = sc.AppArmorProfile
	}
	return profile
}

// needsAppArmor says whether a pod, or any container of it, asks for a profile.
func needsAppArmor(pod *v1.Pod) bool {
	confines := func(p *v1.AppArmorProfile) bool { return p != nil && p.Type != v1.AppArmorProfileTypeUnconfined }
	if sc := pod.Spec.SecurityContext; sc != nil && confines(sc.AppArmorProfile) {
		return true
	}
	for _, c := range allContainers(&pod.Spec) {
		if confines(appArmorOf(pod, c)) {
			return true
		}
	}
	return false
}

// refusesAppArmor is why a pod cannot run on this node, nil if it can.
func (a *Agent) refusesAppArmor(pod *v1.Pod) *failure {
	if a.appArmor || !needsAppArmor(pod) {
		return nil
	}
	return &failure{reason: reasonAppArmor, message: errNoAppArmor.Error(), rejected: true}
}
