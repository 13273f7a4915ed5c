package api

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateProbes checks a container's three probes and its hooks; grace is how long the pod's end may take, in seconds.
func validateProbes(path *field.Path, c *corev1.Container, grace *int64) field.ErrorList {
	var errs field.ErrorList
	if c.Lifecycle != nil {
		at := path.Child("lifecycle")
		errs = append(errs, validateHook(at.Child("postStart"), c.Lifecycle.PostStart, deref(grace))...)
		errs = append(errs, validateHook(at.Child("preStop"), c.Lifecycle.PreStop, deref(grace))...)
	}
	errs = append(errs, validateProbe(path.Child("livenessProbe"), c.LivenessProbe)...)
	errs = append(errs, validateProbe(path.Child("readinessProbe"), c.ReadinessProbe)...)
	errs = append(errs, validateProbe(path.Child("startupProbe"), c.StartupProbe)...)
	if p := c.LivenessProbe; p != nil && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(path.Child("livenessProbe", "successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	if p := c.StartupProbe; p != nil && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(path.Child("startupProbe", "successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	if p := c.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(path.Child("readinessProbe", "terminationGracePeriodSeconds"),
			*p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	return errs
}

func validateProbe(path *field.Path, p *corev1.Probe) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateHandler(path, handler{p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil, 0})
	errs = append(errs, nonNegative(path.Child("initialDelaySeconds"), p.InitialDelaySeconds)...)
	errs = append(errs, nonNegative(path.Child("timeoutSeconds"), p.TimeoutSeconds)...)
	errs = append(errs, nonNegative(path.Child("periodSeconds"), p.PeriodSeconds)...)
	errs = append(errs, nonNegative(path.Child("successThreshold"), p.SuccessThreshold)...)
	errs = append(errs, nonNegative(path.Child("failureThreshold"), p.FailureThreshold)...)
	if s := p.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0"))
	}
	return errs
}

func validateHook(path *field.Path, h *corev1.LifecycleHandler, grace int64) field.ErrorList {
	if h == nil {
		return nil
	}
	return validateHandler(path, handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep, grace})
}

// handler is what probes and hooks have in common; exactly one of its actions is set.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
	grace int64 // The longest sleep, in seconds.
}

func validateHandler(path *field.Path, h handler) field.ErrorList {
	var errs field.ErrorList
	count := 0
	check := func(name string, set bool, validate func(at *field.Path) field.ErrorList) {
		if !set {
			return
		}
		if count++; count > 1 {
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
			return
		}
		errs = append(errs, validate(path.Child(name))...)
	}
	check("exec", h.exec != nil, func(at *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(at.Child("command"), "")}
		}
		return nil
	})
	check("httpGet", h.http != nil, func(at *field.Path) field.ErrorList { return validateHTTPGet(at, h.http) })
	check("tcpSocket", h.tcp != nil, func(at *field.Path) field.ErrorList {
		return validatePortOrName(at.Child("port"), h.tcp.Port)
	})
	check("grpc", h.grpc != nil, func(at *field.Path) field.ErrorList {
		errs := validatePortOrName(at.Child("port"), intstr.FromInt32(h.grpc.Port))
		if h.grpc.Mode != nil {
			errs = append(errs, oneOfAll(at.Child("mode"), *h.grpc.Mode, corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS)...)
		}
		return errs
	})
	check("sleep", h.sleep != nil, func(at *field.Path) field.ErrorList {
		if n := h.sleep.Seconds; n < 0 || n > h.grace {
			return field.ErrorList{field.Invalid(at, n,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", h.grace))}
		}
		return nil
	})
	if count == 0 {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(path *field.Path, g *corev1.HTTPGetAction) field.ErrorList {
	errs := required(path.Child("path"), g.Path)
	errs = append(errs, validatePortOrName(path.Child("port"), g.Port)...)
	errs = append(errs, oneOf(path.Child("scheme"), g.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range g.HTTPHeaders {
		errs = append(errs, invalid(path.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))...)
	}
	if g.Protocol == nil {
		return errs
	}
	errs = append(errs, oneOfAll(path.Child("protocol"), *g.Protocol, corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2)...)
	switch {
	case *g.Protocol != corev1.HTTPProtocolHTTP2:
	case g.Scheme != corev1.URISchemeHTTP:
		errs = append(errs, field.Invalid(path.Child("protocol"), *g.Protocol, "is only supported with HTTP (H2C)"))
	case g.Host != "":
		errs = append(errs, field.Invalid(path.Child("host"), g.Host, "must be empty when `protocol` is \"HTTP2\""))
	}
	return errs
}
