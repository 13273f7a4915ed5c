package api

import (
	"strings"
	"testing"
)

// What is said for Windows is checked, though nothing here runs it.
func TestWindowsOptions(t *testing.T) {
	const at = "spec.securityContext.windowsOptions."
	long := strings.Repeat("u", 105)
	var tests []errorTest
	for _, tc := range []struct{ options, wrong string }{
		{"gmsaCredentialSpecName: ok, gmsaCredentialSpec: x, runAsUserName: 'NT AUTHORITY\\SYSTEM'", ""},
		{"runAsUserName: 'corp.example.com-and-more\\ann.b'", ""},
		{"gmsaCredentialSpecName: A B", "gmsaCredentialSpecName: Invalid value: \"A B\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"},
		{"gmsaCredentialSpec: ''", `gmsaCredentialSpec: Invalid value: "": gmsaCredentialSpec cannot be an empty string`},
		{"runAsUserName: ''", `runAsUserName: Invalid value: "": runAsUserName cannot be an empty string`},
		{`runAsUserName: "a\x01"`, `runAsUserName: Invalid value: "a\x01": runAsUserName cannot contain control characters`},
		{`runAsUserName: 'a\b\c'`, `runAsUserName: Invalid value: "a\\b\\c": runAsUserName cannot contain more than one backslash`},
		{`runAsUserName: '\u'`, `runAsUserName: Invalid value: "\\u": runAsUserName's Domain doesn't match the NetBios nor the DNS format`},
		{`runAsUserName: 'd\'`, `runAsUserName: Invalid value: "d\\": runAsUserName's User cannot be empty`},
		{"runAsUserName: " + long, `runAsUserName: Invalid value: "` + long + `": runAsUserName's User length must not be longer than 104 characters`},
		{"runAsUserName: '. .'", `runAsUserName: Invalid value: ". .": runAsUserName's User cannot contain only periods or spaces`},
		{"runAsUserName: 'a:b'", `runAsUserName: Invalid value: "a:b": runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`},
	} {
		var want []string
		if tc.wrong != "" {
			want = []string{at + tc.wrong}
		}
		tests = append(tests, errorTest{"Pod", aPod("securityContext: {windowsOptions: {"+tc.options+"}}", ""), want})
	}
	tests = append(tests, []errorTest{
		{"Pod", aPod("hostNetwork: true, securityContext: {windowsOptions: {hostProcess: true}}", ""), nil},
		{"Pod", aPod("initContainers: [{name: i, image: i, terminationMessagePolicy: File, imagePullPolicy: Always}], securityContext: {windowsOptions: {hostProcess: true}}",
			"securityContext: {windowsOptions: {hostProcess: false}}"), []string{
			"spec.containers[0].securityContext.windowsOptions.hostProcess: Invalid value: false: pod hostProcess value must be identical if both are specified, was true",
			`spec: Invalid value: "": If pod contains any hostProcess containers then all containers must be HostProcess containers`,
			"spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
		}},
	}...)
	checkErrors(t, tests)
}
