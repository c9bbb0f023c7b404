package storagemigration

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const (
	workers = 1
	manager = "storage-version-migrator-controller"
	page    = 500
	// lookAgain is when a resource that is not served is looked for again.
	lookAgain = 5 * time.Second
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// Controller carries migrations out, one after the other.
type Controller struct {
	env        controllers.Env
	discover   controllers.Discovery
	migrations client.Informer[*migration]
	loop       *client.Loop
	writes     client.Writes
}

// New makes the controller; discover says what is served.
func New(env controllers.Env, discover controllers.Discovery) (*Controller, error) {
	c := &Controller{env: env, discover: discover, migrations: client.InformerFor(env.Informers, client.StorageVersionMigrations)}
	c.loop = env.NewLoop(manager, c.reconcile)
	return c, controllers.Follow(c.loop, c.migrations)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	m, ok := c.migrations.GetKey(key)
	if !ok {
		c.writes.Forget(key)
		return 0, nil
	}
	if Ended(m) || !c.migrations.CaughtUp(&c.writes, key) {
		return 0, nil
	}
	all, err := c.discover(ctx)
	resource := Find(all, m.Spec.Resource)
	if resource == nil {
		if err != nil {
			return 0, fmt.Errorf("finding %v: %w", m.Spec.Resource, err)
		}
		if left := MayAppear(m, c.env.Clock.Now()); left > 0 {
			return min(left, lookAgain), c.write(ctx, key, Running(m, "", c.env.Clock.Now()))
		}
		return 0, c.write(ctx, key, Over(m, "resource does not exist in discovery", c.env.Clock.Now()))
	}
	if why := Unable(resource); why != "" {
		return 0, c.write(ctx, key, Over(m, why, c.env.Clock.Now()))
	}
	if m.Status.ResourceVersion == "" { // the event of this write goes on
		first, err := c.list(ctx, resource, client.Options{Limit: 1})
		if err != nil {
			return 0, err
		}
		return 0, c.write(ctx, key, Running(m, first.ResourceVersion, c.env.Clock.Now()))
	}
	if err := c.definition(ctx, m, false); err != nil {
		return 0, err
	}
	if err := c.migrate(ctx, resource, m.Status.ResourceVersion); err != nil {
		return 0, err
	}
	if err := c.definition(ctx, m, true); err != nil {
		return 0, err
	}
	return 0, c.write(ctx, key, Over(m, "", c.env.Clock.Now()))
}

func (c *Controller) write(ctx context.Context, key string, m *migration) error {
	got, err := client.StorageVersionMigrations.In(c.env.Client, "").UpdateStatus(ctx, m)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		c.writes.Wrote(key, got)
	}
	return err
}

func (c *Controller) list(ctx context.Context, r *controllers.Resource, o client.Options) (*client.ListResult, error) {
	got, err := c.env.Client.Do(ctx, &client.Request{Verb: client.List, Resource: r.GroupVersionResource, Options: o})
	if err != nil {
		return nil, fmt.Errorf("listing %v: %w", r.GroupVersionResource, err)
	}
	return got.List, nil
}

// migrate has every object written anew that is as old as begun, page by page.
// If that took so long that the list cannot be continued, it begins again: what
// was migrated meanwhile is newer then.
func (c *Controller) migrate(ctx context.Context, r *controllers.Resource, begun string) error {
	o := client.Options{Limit: page}
	for {
		list, err := c.list(ctx, r, o)
		if apierrors.IsResourceExpired(err) && o.Continue != "" {
			o.Continue = ""
			continue
		}
		if err != nil {
			return err
		}
		for _, item := range list.Items {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			obj, err := controllers.Accessor(item)
			if err != nil {
				return err
			}
			if Later(obj.GetResourceVersion(), begun) {
				continue
			}
			if err := c.touch(ctx, r, obj); err != nil {
				return fmt.Errorf("migrating %s %s/%s: %w", r.Resource, obj.GetNamespace(), obj.GetName(), err)
			}
		}
		if o.Continue = list.Continue; o.Continue == "" {
			return nil
		}
	}
}

// touch has an object written anew. One that is gone, or is another by now,
// needs no migration.
func (c *Controller) touch(ctx context.Context, r *controllers.Resource, obj metav1.Object) error {
	patch, err := Touch(r.GroupVersion().WithKind(r.Kind), obj)
	if err != nil {
		return err
	}
	_, err = c.env.Client.Do(ctx, &client.Request{
		Verb: client.Patch, Resource: r.GroupVersionResource, Namespace: obj.GetNamespace(), Name: obj.GetName(),
		PatchType: types.ApplyYAMLPatchType, Patch: patch, Options: client.Options{FieldManager: manager, Force: true},
	})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// definition says in the status of a migration's CustomResourceDefinition, if
// it has one, that it goes on or is over.
func (c *Controller) definition(ctx context.Context, m *migration, over bool) error {
	name := m.Spec.Resource.Resource + "." + m.Spec.Resource.Group
	got, err := c.env.Client.Do(ctx, &client.Request{Verb: client.Get, Resource: definitions, Name: name})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("definition of %s: %w", name, err)
	}
	crd := &extv1.CustomResourceDefinition{} // elsewhere it comes without a Go type
	text, err := json.Marshal(got.Object)
	if err == nil {
		err = json.Unmarshal(text, crd)
	}
	if err != nil {
		return fmt.Errorf("definition of %s: %w", name, err)
	}
	changed := Definition(crd, m.Name, over, c.env.Clock.Now())
	if changed == nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]string{"resourceVersion": crd.ResourceVersion},
		"status":   map[string]any{"conditions": changed.Status.Conditions, "storedVersions": changed.Status.StoredVersions},
	})
	if err != nil {
		return err
	}
	_, err = c.env.Client.Do(ctx, &client.Request{
		Verb: client.Patch, Resource: definitions, Name: name, Subresource: "status", PatchType: types.MergePatchType, Patch: patch,
	})
	return err
}
