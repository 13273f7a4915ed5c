package apiserver

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	asTable       = ";as=Table;v=v1;g=meta.k8s.io"
	asPartial     = ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	asPartialList = ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
)

// What a client likes best is decided by its quality values, then by order, and what it names goes before wildcards.
func TestAccept(t *testing.T) {
	for accept, want := range map[string]format{
		"":                                        {media: typeJSON},
		"*/*":                                     {media: typeJSON},
		"application/*":                           {media: typeJSON},
		"text/html, */*;q=0.1":                    {media: typeJSON},
		"*/*, " + typeYAML:                        {media: typeYAML},
		typeYAML + "," + typeJSON:                 {media: typeYAML},
		typeYAML + ";q=0.5," + typeJSON:           {media: typeJSON},
		typeYAML + ";q=0," + typeProto:            {media: typeProto},
		"application/cbor," + typeProto:           {media: typeProto},
		";;," + typeYAML:                          {media: typeYAML},
		typeJSON + asTable + "," + typeJSON:       {media: typeJSON, as: "Table", asOf: "v1"},
		typeJSON + ";g=meta.k8s.io;v=v1;as=Table": {media: typeJSON, as: "Table", asOf: "v1"},
		typeJSON + ";v=v1beta1;as=Table;g=meta.k8s.io":        {media: typeJSON, as: "Table", asOf: "v1beta1"},
		typeJSON + ";v=v9;as=Table;g=meta.k8s.io," + typeYAML: {media: typeYAML},
		typeProto + asTable + "," + typeJSON:                  {media: typeJSON},
		typeProto + asPartialList:                             {media: typeProto, as: "PartialObjectMetadataList", asOf: "v1"},
		typeJSON + ";charset=utf-8":                           {media: typeJSON},
		typeJSON + ";stream=watch," + typeYAML:                {media: typeJSON},
		typeJSON + ";stream=other," + typeYAML:                {media: typeYAML},
	} {
		r := httptest.NewRequest("GET", podsPath, nil)
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		if got, err := negotiate(r, "Table", "PartialObjectMetadataList"); err != nil || got != want {
			t.Errorf("Accept %q: %+v, %v; want %+v", accept, got, err, want)
		}
	}
	for _, accept := range []string{"text/html", "application/cbor", typeJSON + ";q=0", typeJSON + ";as=Table", typeProto + asTable, typeJSON + ";stream=other", typeJSON + asPartial} {
		r := httptest.NewRequest("GET", podsPath, nil)
		r.Header.Set("Accept", accept)
		if got, err := negotiate(r, "Table", "PartialObjectMetadataList"); err == nil {
			t.Errorf("Accept %q: %+v, want it refused", accept, got)
		}
	}
	watch := httptest.NewRequest("GET", podsPath+"?watch=1", nil)
	watch.Header.Set("Accept", typeProto+";stream=watch")
	if got, err := negotiate(watch); err != nil || got.media != typeProto {
		t.Errorf("a watch in protobuf: %+v, %v", got, err)
	}
}

func TestMediaTypesOfBodies(t *testing.T) {
	s := start(t)
	s.do(t, "POST", configMapsPath, configMapJSON("a"), "Content-Type", "application/json; charset=utf-8").want(t, 201)
	s.do(t, "POST", configMapsPath, "metadata: {name: b}", "Content-Type", "application/yaml;charset=UTF-8").want(t, 201)
	for _, media := range []string{"application/cbor", "text/plain", "application/xml", "json", "application/json;"} {
		a := s.do(t, "POST", configMapsPath, configMapJSON("c"), "Content-Type", media, "Accept", typeJSON)
		if media == "application/json;" {
			a.want(t, 201)
			continue
		}
		a.refused(t, 415, metav1.StatusReasonUnsupportedMediaType, "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf")
	}
	s.do(t, "PATCH", configMapsPath+"/a", `{}`).refused(t, 415, metav1.StatusReasonUnsupportedMediaType, "application/strategic-merge-patch+json")
	s.do(t, "GET", configMapsPath, "", "Accept", "application/cbor").refused(t, 406, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf")
}

// What a client is told has failed must not have been done.
func TestUnacceptableWriteChangesNothing(t *testing.T) {
	s := start(t)
	before := s.createConfigMap(t, "a")
	for _, tc := range []struct{ method, path, body, media string }{
		{"POST", configMapsPath, configMapJSON("b"), typeJSON},
		{"PUT", configMapsPath + "/a", `{"metadata":{"name":"a"},"data":{"new":"1"}}`, typeJSON},
		{"PATCH", configMapsPath + "/a", `{"data":{"new":"1"}}`, "application/merge-patch+json"},
		{"PATCH", configMapsPath + "/c?fieldManager=m", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"}}`, "application/apply-patch+yaml"},
		{"DELETE", configMapsPath + "/a", "", typeJSON},
		{"DELETE", configMapsPath, "", typeJSON},
	} {
		s.do(t, tc.method, tc.path, tc.body, "Content-Type", tc.media, "Accept", "text/html").refused(t, 406, metav1.StatusReasonNotAcceptable)
	}
	list := parse[corev1.ConfigMapList](t, s.do(t, "GET", configMapsPath, "").want(t, 200))
	if len(list.Items) != 1 || list.Items[0].ResourceVersion != before.ResourceVersion {
		t.Errorf("there is now %+v", list.Items)
	}
}

// A client that sees objects as metadata or as a table gets a Status as it is.
func TestStatusIsNotTransformed(t *testing.T) {
	s := start(t)
	for _, as := range []string{asPartial, ";as=Table;v=v1;g=meta.k8s.io"} {
		s.createConfigMap(t, "a")
		status := parse[metav1.Status](t, s.do(t, "DELETE", configMapsPath+"/a", "", "Accept", typeJSON+as).want(t, 200))
		if status.Status != metav1.StatusSuccess {
			t.Errorf("a deletion with %s is answered with %+v", as, status)
		}
	}
}

// The metadata of objects comes alone in each format, also in protobuf.
func TestMetadataInProtobuf(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	for path, accept := range map[string]string{configMapsPath: typeProto + asPartialList, configMapsPath + "/a": typeProto + asPartial} {
		a := s.do(t, "GET", path, "", "Accept", accept).want(t, 200)
		var got runtime.Unknown
		if err := got.Unmarshal(bytes.TrimPrefix(a.body, protoMagic)); err != nil || a.header.Get("Content-Type") != typeProto {
			t.Fatalf("%s: %v, as %s", path, err, a.header.Get("Content-Type"))
		}
		if !strings.HasPrefix(got.Kind, "PartialObjectMetadata") || got.APIVersion != "meta.k8s.io/v1" {
			t.Errorf("%s: a %s of %s", path, got.Kind, got.APIVersion)
		}
	}
}

// People get their answers indented, programs don't.
func TestPretty(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	for _, path := range []string{configMapsPath, configMapsPath + "/a", configMapsPath + "/none"} {
		for query, agent := range map[string]string{"?pretty=true": "kubectl/v1.37.0", "?pretty=1": "", "": "curl/8.5.0"} {
			if a := s.do(t, "GET", path+query, "", "User-Agent", agent); !strings.Contains(string(a.body), "\n  \"kind\"") {
				t.Errorf("%s%s for %s is not indented: %s", path, query, agent, a.body)
			}
		}
		for query, agent := range map[string]string{"": "kubectl/v1.37.0", "?pretty=false": "curl/8.5.0", "?pretty=0": "Mozilla/5.0"} {
			if a := s.do(t, "GET", path+query, "", "User-Agent", agent); strings.Contains(string(a.body), "\n  \"kind\"") {
				t.Errorf("%s%s for %s is indented", path, query, agent)
			}
		}
	}
}

// Large answers are compressed for those who can take it, and caches are told that it depends.
func TestGzipIsNegotiated(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "small")
	s.do(t, "POST", configMapsPath, strings.Replace(configMapJSON("large"), `"1"`, `"`+strings.Repeat("x", gzipFrom)+`"`, 1)).want(t, 201)
	for _, tc := range []struct{ path, accepts, encoding, vary string }{
		{"/small", "gzip", "", ""},
		{"/large", "gzip", "gzip", "Accept-Encoding"},
		{"/large", "deflate, gzip;q=0.5", "gzip", "Accept-Encoding"},
		{"/large", "gzip;q=0", "", "Accept-Encoding"},
		{"/large", "gzipped", "", "Accept-Encoding"},
		{"/large", "identity", "", "Accept-Encoding"},
	} {
		a := s.do(t, "GET", configMapsPath+tc.path, "", "Accept-Encoding", tc.accepts).want(t, 200)
		if a.header.Get("Content-Encoding") != tc.encoding || a.header.Get("Vary") != tc.vary {
			t.Errorf("%s for %q: encoding %q, Vary %q", tc.path, tc.accepts, a.header.Get("Content-Encoding"), a.header.Get("Vary"))
		}
	}
}
