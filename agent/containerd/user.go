package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"

	"skiff/agent"
)

// Who a container's process is, its image and the pod say together: a name is looked up in the image's /etc/passwd and
// /etc/group. containerd's oci.WithUser does so too, but it links package text/template, and with that in the link no method
// of any type can be left out of the binary: 20 MB more.

// withUser sets user and groups of the process. named is the image's USER, which the pod may overrule.
func withUser(named string, root []mount.Mount, sec agent.Security) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, c *containers.Container, s *oci.Spec) error {
		all, err := layersOf(root)
		if err != nil {
			return fmt.Errorf("look up the user: %w", err)
		}
		passwd, err := all.read("etc/passwd")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		group, err := all.read("etc/group")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if s.Process.User, err = resolveUser(named, sec, passwd, group); err != nil {
			return err
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[labelUser] = tellUser(s.Process.User)
		return nil
	}
}

// tellUser keeps a user in a label: "1000 3000 3000 4000", the groups last. A label that would be longer than containerd takes tells of
// nobody.
func tellUser(u specs.User) string {
	text := fmt.Sprint(u.UID, " ", u.GID)
	for _, g := range u.AdditionalGids {
		text += " " + strconv.FormatUint(uint64(g), 10)
	}
	if len(labelUser)+len(text) > maxLabel {
		return ""
	}
	return text
}

// maxLabel is containerd's limit for a label and its value together.
const maxLabel = 4096

// parseUser reads what tellUser wrote, nil if there is nothing to read.
func parseUser(text string) *agent.User {
	var numbers []int64
	for word := range strings.FieldsSeq(text) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil
		}
		numbers = append(numbers, n)
	}
	if len(numbers) < 2 {
		return nil
	}
	return &agent.User{UID: numbers[0], GID: numbers[1], Groups: numbers[2:]}
}

// resolveUser works out a process' user and groups. The groups that the image's files give the user come with it also where
// the primary group is another one's choice.
// https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#implicit-group-memberships-defined-in-etc-group-in-the-container-image
func resolveUser(named string, sec agent.Security, passwd, group []byte) (specs.User, error) {
	lookUp := func(who string) (*user.ExecUser, error) {
		u, err := user.GetExecUser(who, nil, bytes.NewReader(passwd), bytes.NewReader(group))
		if err == nil && (u.Uid < 0 || u.Gid < 0) {
			err = user.ErrRange
		}
		if err != nil {
			return nil, fmt.Errorf("look up the user %q: %w", who, err)
		}
		return u, nil
	}
	if sec.UID != nil {
		named = strconv.FormatInt(*sec.UID, 10)
	}
	u, err := lookUp(named)
	if err != nil {
		return specs.User{}, err
	}
	member, err := lookUp(strconv.Itoa(u.Uid))
	if err != nil {
		return specs.User{}, err
	}
	gid := uint32(u.Gid)
	if sec.GID != nil {
		gid = uint32(*sec.GID)
	}
	groups := []uint32{gid}
	add := func(g uint32) {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	if !sec.StrictGroups {
		for _, g := range member.Sgids {
			add(uint32(g))
		}
	}
	for _, g := range sec.SupplementalGroups {
		add(uint32(g))
	}
	return specs.User{UID: uint32(u.Uid), GID: gid, AdditionalGids: groups}, nil
}
