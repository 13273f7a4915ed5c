package api

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// No node here runs Windows, but a manifest that a cluster with such nodes refuses is refused here, too.

// validateWindows checks the options in the security context of a pod or of a container.
func validateWindows(context *field.Path, o *corev1.WindowsSecurityContextOptions) field.ErrorList {
	if o == nil {
		return nil
	}
	path := context.Child("windowsOptions")
	var errs field.ErrorList
	if name := o.GMSACredentialSpecName; name != nil {
		errs = append(errs, invalid(path.Child("gmsaCredentialSpecName"), *name, validation.IsDNS1123Subdomain(*name))...)
	}
	if spec := o.GMSACredentialSpec; spec != nil {
		const mostKiB = 64
		switch at, n := path.Child("gmsaCredentialSpec"), len(*spec); {
		case n == 0:
			errs = append(errs, field.Invalid(at, *spec, "gmsaCredentialSpec cannot be an empty string"))
		case n > mostKiB<<10:
			errs = append(errs, field.Invalid(at, *spec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", mostKiB)))
		}
	}
	if user := o.RunAsUserName; user != nil {
		errs = append(errs, invalid(path.Child("runAsUserName"), *user, windowsUser(*user))...)
	}
	return errs
}

var (
	control      = regexp.MustCompile(`[[:cntrl:]]`)
	netBIOSName  = regexp.MustCompile(`^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$`)
	windowsDNS   = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
	onlyDots     = regexp.MustCompile(`^[. ]+$`)
	noUserLetter = regexp.MustCompile(`["/\\:;|=,+*?<>@\[\]]`)
)

// windowsUser says what is wrong with the name of a user, which may have a domain before it: DOMAIN\user.
// https://learn.microsoft.com/en-us/troubleshoot/windows-server/active-directory/naming-conventions-for-computer-domain-site-ou
func windowsUser(name string) (wrong []string) {
	parts := strings.Split(name, `\`)
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case control.MatchString(name):
		return []string{"runAsUserName cannot contain control characters"}
	case len(parts) > 2:
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	if len(parts) == 2 {
		wrong = windowsDomain(parts[0])
	}
	const longest = 104
	user := parts[len(parts)-1]
	switch {
	case user == "":
		wrong = append(wrong, "runAsUserName's User cannot be empty")
	case len(user) > longest:
		wrong = append(wrong, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", longest))
	}
	if onlyDots.MatchString(user) {
		wrong = append(wrong, "runAsUserName's User cannot contain only periods or spaces")
	}
	if noUserLetter.MatchString(user) {
		wrong = append(wrong, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return wrong
}

func windowsDomain(name string) (wrong []string) {
	const tooLong = 256
	if len(name) >= tooLong {
		wrong = append(wrong, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", tooLong))
	}
	if !netBIOSName.MatchString(name) && !windowsDNS.MatchString(name) {
		wrong = append(wrong, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	}
	return wrong
}

// validateHostProcess holds that all containers of a pod are processes of a Windows host or none, and that those share its network.
func validateHostProcess(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	if !asksForWindows(s) { // As good as all.
		return nil
	}
	var ofPod *bool
	if s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil {
		ofPod = s.SecurityContext.WindowsOptions.HostProcess
	}
	var errs field.ErrorList
	all, processes := 0, 0
	eachContainer(path, s, func(c *corev1.Container, at *field.Path) {
		own := ofPod
		if hasWindows(c.SecurityContext) && c.SecurityContext.WindowsOptions.HostProcess != nil {
			own = c.SecurityContext.WindowsOptions.HostProcess
		}
		if ofPod != nil && *own != *ofPod {
			errs = append(errs, field.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
				fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *ofPod)))
		}
		all++
		if deref(own) {
			processes++
		}
	})
	if processes > 0 && processes < all {
		errs = append(errs, field.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if processes > 0 && !s.HostNetwork {
		errs = append(errs, field.Invalid(path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

func asksForWindows(s *corev1.PodSpec) bool {
	return s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil ||
		slices.ContainsFunc(s.InitContainers, func(c corev1.Container) bool { return hasWindows(c.SecurityContext) }) ||
		slices.ContainsFunc(s.Containers, func(c corev1.Container) bool { return hasWindows(c.SecurityContext) }) ||
		slices.ContainsFunc(s.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return hasWindows(c.SecurityContext) })
}

func hasWindows(c *corev1.SecurityContext) bool { return c != nil && c.WindowsOptions != nil }
