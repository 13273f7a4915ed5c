package apiserver

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod gets ephemeral containers by their own way only, keeps what it has, and changes in nothing else.
func TestEphemeralContainers(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	path := podsPath + "/p/ephemeralcontainers"
	add := func(c string) answer {
		return s.do(t, "PATCH", path, `{"metadata":{"labels":{"new":"x"}},"spec":{"nodeName":"n9","ephemeralContainers":[`+c+`]}}`, strategic...)
	}
	add(`{"name":"debug","image":"busybox","stdin":true,"targetContainerName":"c"}`).want(t, 200)
	add(`{"name":"more","image":"busybox:1"}`).want(t, 200)
	p := s.pod(t, "p")
	if len(p.Spec.EphemeralContainers) != 2 || p.Spec.NodeName != "" || p.Labels["new"] != "" || p.Generation != 3 {
		t.Errorf("the pod has ephemeral containers %+v, node %q, labels %v, generation %d; want two, none, no new one, 3",
			p.Spec.EphemeralContainers, p.Spec.NodeName, p.Labels, p.Generation)
	}
	for _, c := range p.Spec.EphemeralContainers {
		if c.ImagePullPolicy == "" || c.TerminationMessagePath == "" {
			t.Errorf("%s has no defaults: %+v", c.Name, c)
		}
	}
	for c, want := range map[string]string{
		`{"name":"c","image":"i"}`:                                                              `spec.ephemeralContainers[0].name: Duplicate value: "c"`,
		`{"name":"d","image":""}`:                                                               "spec.ephemeralContainers[0].image: Required value",
		`{"name":"d","image":"i","targetContainerName":"debug"}`:                                `spec.ephemeralContainers[0].targetContainerName: Not found: "debug"`,
		`{"name":"d","image":"i","ports":[{"containerPort":80}]}`:                               "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
		`{"name":"d","image":"i","resources":{"limits":{"cpu":"1"}}}`:                           "spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container",
		`{"name":"d","image":"i","livenessProbe":{"exec":{"command":["a"]}}}`:                   "spec.ephemeralContainers[0].livenessProbe: Forbidden: cannot be set for an Ephemeral Container",
		`{"name":"d","image":"i","lifecycle":{"preStop":{"sleep":{"seconds":1}}}}`:              "spec.ephemeralContainers[0].lifecycle: Forbidden: cannot be set for an Ephemeral Container",
		`{"name":"d","image":"i","volumeMounts":[{"name":"v","mountPath":"/v","subPath":"a"}]}`: "spec.ephemeralContainers[0].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
		`{"name":"debug","image":"other"}`:                                                      `spec.ephemeralContainers: Forbidden: existing ephemeral containers "debug" may not be changed`,
		`{"name":"debug","$patch":"delete"}`:                                                    `spec.ephemeralContainers: Forbidden: existing ephemeral containers "debug" may not be removed`,
	} {
		add(c).refused(t, 422, metav1.StatusReasonInvalid, want)
	}
	s.do(t, "GET", path, "").want(t, 200)
	whole := s.do(t, "GET", podsPath+"/p", "").want(t, 200)
	s.do(t, "PUT", path, string(whole.body)).want(t, 200)
	s.do(t, "PATCH", podsPath+"/p", `{"metadata":{"labels":{"a":"b"}}}`, merge...).want(t, 200) // A pod that has some can still change.
	s.do(t, "PATCH", podsPath+"/p", `{"spec":{"ephemeralContainers":[{"name":"d","image":"i"}]}}`, strategic...).
		refused(t, 422, metav1.StatusReasonInvalid, "spec: Forbidden: pod updates may not change fields other than")
	s.do(t, "POST", podsPath, `{"metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"i"}],"ephemeralContainers":[{"name":"d","image":"i"}]}}`).
		refused(t, 422, metav1.StatusReasonInvalid, "spec.ephemeralContainers: Forbidden: cannot be set on create")
	if got := s.pod(t, "p").Generation; got != 3 {
		t.Errorf("generation is %d, want it unchanged at 3", got)
	}
}

// A node may read what the ephemeral containers of its pods refer to, as it may for the others.
func TestNodeReadsSecretsOfEphemeralContainers(t *testing.T) {
	s := start(t)
	s.do(t, "POST", "/api/v1/namespaces/default/secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"key"}}`).want(t, 201)
	s.createConfigMap(t, "settings")
	s.createPod(t, "p")
	s.bind(t, "p", "n1").want(t, 201)
	secret, configMap := "/api/v1/namespaces/default/secrets/key", configMapsPath+"/settings"
	for _, path := range []string{secret, configMap} {
		s.doAs(t, nodeUser, "GET", path, "").want(t, 403)
	}
	s.do(t, "PATCH", podsPath+"/p/ephemeralcontainers", `{"spec":{"ephemeralContainers":[{"name":"debug","image":"busybox",
		"envFrom":[{"configMapRef":{"name":"settings"}}],"env":[{"name":"KEY","valueFrom":{"secretKeyRef":{"name":"key","key":"k"}}}]}]}}`, strategic...).want(t, 200)
	for _, path := range []string{secret, configMap} {
		s.doAs(t, nodeUser, "GET", path, "").want(t, 200)
	}
}
