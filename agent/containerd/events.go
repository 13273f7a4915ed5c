package containerd

import (
	"context"
	"fmt"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

// helloTopic carries an event of our own. When it comes back, the subscription is known to work: the daemon says nothing
// when it begins to send, and what happened before would be missed.
const helloTopic = "/skiff/hello"

const helloEvery = 20 * time.Millisecond

// Events calls changed with the pod's UID whenever a container starts or ends, and with "" at first and after the daemon
// was away.
func (r *Runtime) Events(ctx context.Context, changed func(podUID string)) error {
	ctx = r.in(ctx)
	for {
		err := r.follow(ctx, changed)
		if ctx.Err() != nil {
			return nil
		}
		r.log.Info("containerd's events ended, subscribing again", "err", err)
		if _, err := r.client.IsServing(ctx); err != nil { // Waits for the connection.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
		}
	}
}

// follow subscribes and passes on what comes until the stream ends.
func (r *Runtime) follow(ctx context.Context, changed func(podUID string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filter := func(topic string) string { return fmt.Sprintf("namespace==%q,topic==%q", r.config.Namespace, topic) }
	envelopes, errs := r.client.Subscribe(ctx, filter("/tasks/start"), filter("/tasks/exit"), filter(helloTopic))
	hello := time.NewTicker(helloEvery)
	defer hello.Stop()
	subscribed := false
	for {
		select {
		case err := <-errs:
			return err
		case e := <-envelopes:
			switch {
			case e.Topic != helloTopic:
				r.pass(ctx, e, changed)
			case !subscribed:
				subscribed = true
				hello.Stop()
				changed("")
			}
		case <-hello.C:
			if err := r.client.EventService().Publish(ctx, helloTopic, &apievents.NamespaceUpdate{Name: r.config.Namespace}); err != nil {
				return fmt.Errorf("publish event: %w", err)
			}
		}
	}
}

// pass tells whose container an event is about. Commands run by Exec have events too; those are nobody's business.
func (r *Runtime) pass(ctx context.Context, e *events.Envelope, changed func(podUID string)) {
	var id string
	event, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		r.log.Error("containerd sent an event that can't be read", "topic", e.Topic, "err", err)
		return
	}
	switch event := event.(type) {
	case *apievents.TaskStart:
		id = event.ContainerID
	case *apievents.TaskExit:
		if event.ID == event.ContainerID {
			id = event.ContainerID
		}
	}
	if id == "" {
		return
	}
	if uid := r.ownerOf(id); uid != "" {
		changed(uid)
		return
	}
	record, err := r.client.ContainerService().Get(ctx, id)
	if errdefs.IsNotFound(err) {
		return // Removed since: who did it knows.
	}
	if err != nil {
		changed("")
		return
	}
	if uid := record.Labels[labelPodUID]; uid != "" {
		changed(uid)
	}
}
