package test

import "testing"

// testTop sees what a busy pod uses, as soon as it runs.
func testTop(t *testing.T, s *shell) {
	s.do("kubectl apply -f - <<'EOF'\n" + busyPod + "\nEOF")
	s.do("kubectl wait --for=condition=Ready pod/busy --timeout=60s")
	// No two readings need be waited for: the node is asked, and takes them then.
	s.says("kubectl top pod busy --containers --no-headers", `(?m)^busy +idle +\d+m +\d+Mi +\nbusy +spin +[1-9]\d+m +\d+Mi *$`)
	s.says("kubectl top pod --no-headers --sum", `(?s)busy +[1-9]\d+m +\d+Mi.*`)
	s.says("kubectl top node --no-headers", nodeName+` +[1-9]\d*m +\d+% +[1-9]\d*Mi +\d+% *`)
	s.says("kubectl get pods.metrics.k8s.io", `(?s)NAME +CPU +MEMORY +WINDOW\nbusy +\S+ +\S+ +\S+`)
	s.fails("kubectl top pod none", 1, `Error from server \(NotFound\): podmetrics.metrics.k8s.io "`+s.space+`/none" not found`)
	node := "kubectl get --raw /api/v1/nodes/" + nodeName + "/proxy"
	s.says(node+"/stats/summary", `(?s).*"podRef":\{"name":"busy","namespace":"`+s.space+`".*"rootfs":\{.*"usedBytes":\d+.*"network":\{.*"name":"eth0","rxBytes":\d+.*`)
	s.says(node+"/metrics/resource", `(?s).*pod_cpu_usage_seconds_total\{namespace="`+s.space+`",pod="busy"\} .*`)
	s.says(node+"/metrics/cadvisor", `(?s).*container_cpu_usage_seconds_total\{container="spin",cpu="total",id="/skiff[^"]*",image="docker.io/library/busybox:latest",`+
		`name="[^"]*",namespace="`+s.space+`",pod="busy"\} .*container_network_receive_bytes_total\{container="",id="/skiff[^"]*",image="",interface="eth0",name="",`+
		`namespace="`+s.space+`",pod="busy"\} \d.*`)
	s.says(node+"/metrics", `(?s).*\nkubelet_pod_start_duration_seconds_count [1-9].*\nkubelet_running_pods [1-9].*`)
}

// busyPod has a container that keeps a processor busy, and one that does nothing.
const busyPod = `
apiVersion: v1
kind: Pod
metadata:
  name: busy
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: spin, image: busybox, imagePullPolicy: Never, command: [sh, -c, "while :; do :; done"], resources: {limits: {cpu: 200m, memory: 32Mi}}}
  - {name: idle, image: busybox, imagePullPolicy: Never, command: [sleep, "1000"]}
`
