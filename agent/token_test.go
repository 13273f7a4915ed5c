package agent_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// issuer answers TokenRequests: "NUMBER for AUDIENCE of POD".
type issuer struct {
	given  atomic.Int32
	down   atomic.Bool
	behind time.Duration // How far its clock is behind the node's.
}

func (i *issuer) answer(action clienttesting.Action) (bool, runtime.Object, error) {
	if action.GetSubresource() != "token" {
		return false, nil, nil
	}
	if i.down.Load() {
		return true, nil, errors.New("the issuer is away")
	}
	given := i.given.Add(1)
	r := action.(clienttesting.CreateActionImpl).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
	r.Status = authenticationv1.TokenRequestStatus{
		Token:               fmt.Sprintf("%d for %v of %s", given, r.Spec.Audiences, r.Spec.BoundObjectRef.UID),
		ExpirationTimestamp: metav1.NewTime(time.Now().Add(-i.behind + time.Duration(*r.Spec.ExpirationSeconds)*time.Second)),
	}
	return true, r, nil
}

// tokenVolume asks for a token to present to an audience.
func tokenVolume(audience string, seconds int64) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.ServiceAccountName = "robot"
		p.Spec.Volumes = []v1.Volume{{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{
			Sources: []v1.VolumeProjection{{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Audience: audience, ExpirationSeconds: &seconds, Path: "token"}}},
		}}}}
	}
}

// A token is there when the container starts, is replaced before it ends, and is kept as long as the API server is away.
func TestTokenIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		issuer := &issuer{}
		n.client.PrependReactor("create", "serviceaccounts", issuer.answer)
		n.create(newPod("web", tokenVolume("vault", 3600)))
		n.want("web", "Running app=running/0")
		_, secrets, _ := n.agent.Dirs()
		want := func(token string) {
			t.Helper()
			got, err := os.ReadFile(filepath.Join(secrets, "uid-web", "token", "token"))
			if err != nil || string(got) != token {
				t.Errorf("the pod's token is %q (%v), want %q", got, err, token)
			}
		}
		want("1 for [vault] of uid-web")
		after(t, 47*time.Minute) // 80 % of an hour are 48 minutes.
		want("1 for [vault] of uid-web")
		after(t, 2*time.Minute)
		want("2 for [vault] of uid-web")
		issuer.down.Store(true)
		after(t, 55*time.Minute)
		want("2 for [vault] of uid-web")
		issuer.down.Store(false)
		after(t, 2*time.Minute)
		want("3 for [vault] of uid-web")
		n.markDeleted("web", 0)
		after(t, 2*time.Hour)
		if issuer.given.Load() != 3 {
			t.Errorf("%d tokens were asked for, the last ones for a pod that is gone", issuer.given.Load())
		}
	})
}

// A node whose clock is ahead of the API server's holds every token for one that is due, and yet does not ask all the time.
func TestTokenByAnotherClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		issuer := &issuer{behind: 2 * time.Hour}
		n.client.PrependReactor("create", "serviceaccounts", issuer.answer)
		n.create(newPod("web", tokenVolume("vault", 3600)))
		n.want("web", "Running app=running/0")
		after(t, 10*time.Minute)
		if issuer.given.Load() < 2 || issuer.given.Load() > 12 {
			t.Errorf("in ten minutes %d tokens were asked for", issuer.given.Load())
		}
	})
}

// A pod whose token nobody gives does not start.
func TestTokenIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		issuer := &issuer{}
		issuer.down.Store(true)
		n.client.PrependReactor("create", "serviceaccounts", issuer.answer)
		n.create(newPod("web", tokenVolume("", 3600)))
		n.want("web", "Pending app=ContainerCreating/0")
		n.wantContainers("")
	})
}
