package agent

import (
	"context"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// sources gives pods their ConfigMaps, Secrets and tokens. Each object that a pod of this node names is watched by itself, so that the
// node needs no right to see any other, and the pod hears when the object changes.
type sources struct {
	client  kubernetes.Interface
	contact *contact
	tokens  *tokens
	changed func(uid string)
	ctx     context.Context
	wg      sync.WaitGroup

	mu      sync.Mutex
	watched map[sourceKey]*source
}

type sourceKey struct {
	secret          bool
	namespace, name string
}

// source is one watched object.
type source struct {
	informer cache.SharedIndexInformer
	users    map[string]bool // Pod UIDs.
	stop     context.CancelFunc
}

func newSources(client kubernetes.Interface, contact *contact, changed func(uid string)) *sources {
	return &sources{client: client, contact: contact, tokens: newTokens(client, contact), changed: changed, watched: map[sourceKey]*source{}}
}

// begin sets when all watches end; to be called before any pod asks.
func (s *sources) begin(ctx context.Context) { s.ctx = ctx }

// wait returns when all watches have ended.
func (s *sources) wait() { s.wg.Wait() }

func (s *sources) configMap(ctx context.Context, pod *v1.Pod, name string) (*v1.ConfigMap, error) {
	object, err := s.get(ctx, string(pod.UID), sourceKey{false, pod.Namespace, name})
	if err != nil {
		return nil, err
	}
	return object.(*v1.ConfigMap), nil
}

func (s *sources) secret(ctx context.Context, pod *v1.Pod, name string) (*v1.Secret, error) {
	object, err := s.get(ctx, string(pod.UID), sourceKey{true, pod.Namespace, name})
	if err != nil {
		return nil, err
	}
	return object.(*v1.Secret), nil
}

func (s *sources) token(ctx context.Context, pod *v1.Pod, p *v1.ServiceAccountTokenProjection) (token, error) {
	return s.tokens.get(ctx, pod, p)
}

// get returns the object as the watch last saw it. Until the watch has seen it, and to be sure that it is not there, the API is asked;
// where that does not answer, what the watch last saw counts, also that there was none.
func (s *sources) get(ctx context.Context, uid string, key sourceKey) (runtime.Object, error) {
	informer, err := s.watch(uid, key)
	if err != nil {
		return nil, err
	}
	if object, ok, _ := informer.GetStore().GetByKey(key.namespace + "/" + key.name); ok {
		return object.(runtime.Object), nil
	}
	var object runtime.Object
	err = s.contact.ask(ctx, func(ctx context.Context) error {
		if key.secret {
			object, err = s.client.CoreV1().Secrets(key.namespace).Get(ctx, key.name, metav1.GetOptions{})
		} else {
			object, err = s.client.CoreV1().ConfigMaps(key.namespace).Get(ctx, key.name, metav1.GetOptions{})
		}
		return err
	})
	if unanswered(err) && informer.HasSynced() {
		err = apierrors.NewNotFound(key.resource(), key.name)
	}
	return object, err
}

func (k sourceKey) resource() schema.GroupResource {
	if k.secret {
		return v1.Resource("secrets")
	}
	return v1.Resource("configmaps")
}

func (s *sources) watch(uid string, key sourceKey) (cache.SharedIndexInformer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.watched[key]; src != nil {
		src.users[uid] = true
		return src.informer, nil
	}
	byName := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", key.name).String()
	}
	src := &source{users: map[string]bool{uid: true}}
	if key.secret {
		src.informer = coreinformers.NewFilteredSecretInformer(s.client, key.namespace, 0, cache.Indexers{}, byName)
	} else {
		src.informer = coreinformers.NewFilteredConfigMapInformer(s.client, key.namespace, 0, cache.Indexers{}, byName)
	}
	tell := func(any) { s.tell(src) }
	_, err := src.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, _ any) { tell(nil) }, DeleteFunc: tell,
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s/%s: %w", key.namespace, key.name, err)
	}
	ctx, stop := context.WithCancel(s.ctx)
	src.stop = stop
	s.wg.Go(func() { src.informer.RunWithContext(ctx) })
	s.watched[key] = src
	return src.informer, nil
}

func (s *sources) tell(src *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid := range src.users {
		s.changed(uid)
	}
}

// release ends the watches that only this pod wanted, and drops its tokens.
func (s *sources) release(uid string) {
	s.tokens.forget(uid)
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, src := range s.watched {
		delete(src.users, uid)
		if len(src.users) == 0 {
			src.stop()
			delete(s.watched, key)
		}
	}
}
