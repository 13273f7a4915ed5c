#!/bin/sh
# Makes definitions.json.gz anew. `go generate ./apiserver/openapi` runs it.
#
# A package of k8s.io/api is here because the API serves its kinds, or because one that is served refers to its types.
# After a change of the k8s.io versions in skiff's go.mod, put the same ones into the go.mod here first.
set -e
cd "$(dirname "$0")"

go tool openapi-gen \
	--output-dir definitions \
	--output-pkg skiff/apiserver/openapi/generate/definitions \
	--output-file definitions.go \
	--go-header-file /dev/null \
	--report-filename /dev/null \
	k8s.io/api/apps/v1 \
	k8s.io/api/authentication/v1 \
	k8s.io/api/authorization/v1 \
	k8s.io/api/autoscaling/v1 \
	k8s.io/api/autoscaling/v2 \
	k8s.io/api/batch/v1 \
	k8s.io/api/certificates/v1 \
	k8s.io/api/coordination/v1 \
	k8s.io/api/core/v1 \
	k8s.io/api/discovery/v1 \
	k8s.io/api/events/v1 \
	k8s.io/api/networking/v1 \
	k8s.io/api/node/v1 \
	k8s.io/api/policy/v1 \
	k8s.io/api/rbac/v1 \
	k8s.io/api/scheduling/v1 \
	k8s.io/api/scheduling/v1alpha3 \
	k8s.io/api/storage/v1 \
	k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 \
	k8s.io/metrics/pkg/apis/metrics/v1beta1 \
	k8s.io/apimachinery/pkg/api/resource \
	k8s.io/apimachinery/pkg/apis/meta/v1 \
	k8s.io/apimachinery/pkg/runtime \
	k8s.io/apimachinery/pkg/util/intstr \
	k8s.io/apimachinery/pkg/version

go run . ../definitions.json.gz
