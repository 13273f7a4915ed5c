package api

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// certificateSigningRequest says who asks for a certificate: the server fills that in (spec.username, uid, groups), and
// nothing of the spec changes afterwards.
func certificateSigningRequest() *Resource {
	spec, status := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc(), certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()
	const kind = "CertificateSigningRequest"
	approval := statusSub(kind)
	approval.Name = "approval"
	approval.Prepare = csrRule(prepareApproval)
	approval.Validate = csrCheck(func(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return append(validateKeptConditions(c, old), validateKeptCertificate(c, old)...)
	})
	sub := statusSub(kind)
	sub.Prepare = csrRule(prepareCertificate)
	sub.Validate = csrCheck(func(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return append(validateKeptConditions(c, old), validateNewCertificate(c, old)...)
	})
	return row(Resource{
		Group: "certificates.k8s.io", Version: "v1", Name: "certificatesigningrequests", Singular: "certificatesigningrequest",
		Kind: kind, Idle: true, ShortNames: []string{"csr"},
		Verbs:        allVerbs(),
		Subs:         []Sub{approval, sub},
		ValidateName: validatePathSegment,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			ageColumn(),
			column("SignerName", "string", spec["signerName"]),
			column("Requestor", "string", spec["username"]),
			column("RequestedDuration", "string", spec["expirationSeconds"]),
			column("Condition", "string", status["conditions"]),
		},
	}, rules[certificatesv1.CertificateSigningRequest]{
		PrepareUpdate: func(c, old *certificatesv1.CertificateSigningRequest) { c.Spec = *old.Spec.DeepCopy() },
		Validate:      validateCertificateRequest,
		Fields: func(c *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"spec.signerName": c.Spec.SignerName}
		},
		Row: func(c *certificatesv1.CertificateSigningRequest) []any {
			asked := "<none>"
			if n := c.Spec.ExpirationSeconds; n != nil {
				asked = duration.HumanDuration(time.Duration(*n) * time.Second)
			}
			return []any{
				c.Name, age(c.CreationTimestamp.Time), or(c.Spec.SignerName, "<none>"), c.Spec.Username, asked, csrStatus(c),
			}
		},
	})
}

func csrRule(f func(c, old *certificatesv1.CertificateSigningRequest)) func(obj, old runtime.Object) {
	return func(obj, old runtime.Object) {
		f(obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest))
	}
}

func csrCheck(f func(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList) func(obj, old runtime.Object) field.ErrorList {
	return func(obj, old runtime.Object) field.ErrorList {
		c := obj.(*certificatesv1.CertificateSigningRequest)
		return append(validateCertificateRequest(c), f(c, old.(*certificatesv1.CertificateSigningRequest))...)
	}
}

// csrStatus is what was decided, and what came of it.
func csrStatus(c *certificatesv1.CertificateSigningRequest) string {
	status := "Pending"
	switch {
	case len(conditionsOf(c, certificatesv1.CertificateDenied)) > 0:
		status = "Denied"
	case len(conditionsOf(c, certificatesv1.CertificateApproved)) > 0:
		status = "Approved"
	}
	if len(conditionsOf(c, certificatesv1.CertificateFailed)) > 0 {
		status += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		status += ",Issued"
	}
	return status
}

func conditionsOf(c *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
	var all []certificatesv1.CertificateSigningRequestCondition
	for _, condition := range c.Status.Conditions {
		if condition.Type == kind {
			all = append(all, condition)
		}
	}
	return all
}

// prepareApproval keeps all but the conditions: whoever approves does not sign.
func prepareApproval(c, old *certificatesv1.CertificateSigningRequest) {
	c.Status.Certificate = old.Status.Certificate
	stampConditions(c, old)
}

// prepareCertificate keeps the decision as it stands: whoever signs does not approve.
func prepareCertificate(c, old *certificatesv1.CertificateSigningRequest) {
	for _, kind := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		was := conditionsOf(old, kind)
		if len(was) != len(conditionsOf(c, kind)) {
			continue // Added or taken away, which validation refuses.
		}
		for i := range c.Status.Conditions {
			if c.Status.Conditions[i].Type == kind {
				c.Status.Conditions[i], was = was[0], was[1:]
			}
		}
	}
	stampConditions(c, old)
}

// stampConditions says since when each condition holds, where the client did not.
func stampConditions(c, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now().Rfc3339Copy()
	for i := range c.Status.Conditions {
		condition := &c.Status.Conditions[i]
		if condition.LastUpdateTime.IsZero() {
			condition.LastUpdateTime = now
		}
		if !condition.LastTransitionTime.IsZero() {
			continue
		}
		condition.LastTransitionTime = now
		for _, was := range conditionsOf(old, condition.Type) {
			if was.Status == condition.Status && !was.LastTransitionTime.IsZero() {
				condition.LastTransitionTime = was.LastTransitionTime
				break
			}
		}
	}
}
