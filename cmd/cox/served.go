package main

import (
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// servedBy asks an API server elsewhere what it serves, each resource in its
// preferred version. What could be found comes even with an error.
func servedBy(d discovery.DiscoveryInterface) ([]controllers.Resource, error) {
	lists, err := discovery.ServerPreferredResources(d)
	var out []controllers.Resource
	for _, l := range lists {
		gv, bad := schema.ParseGroupVersion(l.GroupVersion)
		if bad != nil {
			continue
		}
		for i := range l.APIResources {
			r := &l.APIResources[i]
			out = append(out, controllers.Resource{
				GroupVersionResource: gv.WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced, Verbs: slices.Clone(r.Verbs),
			})
		}
	}
	return out, err
}

// followServed tells changed, until ctx ends, that discovery may answer
// otherwise now: definitions of resources and of aggregated servers come, go
// and become ready. informers must not have been started.
func followServed(ctx context.Context, informers *client.Informers, changed chan<- struct{}) error {
	poke := settledChanges(ctx, changed)
	for _, gvr := range []schema.GroupVersionResource{
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
		{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"},
	} {
		_, err := informers.Any(gvr).AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { poke() }, DeleteFunc: func(any) { poke() }, UpdateFunc: func(any, any) { poke() },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// settledChanges returns a function that tells of a change. Servers take their
// time to serve what is defined: changed is told a while after the last change,
// and once more later.
func settledChanges(ctx context.Context, changed chan<- struct{}) (poke func()) {
	after := []time.Duration{time.Second, 10 * time.Second}
	poked := make(chan struct{}, 1)
	go func() {
		wait := time.NewTimer(0)
		defer wait.Stop()
		<-wait.C
		var left []time.Duration
		for {
			select {
			case <-ctx.Done():
				return
			case <-poked:
				left = after
			case <-wait.C:
				select {
				case changed <- struct{}{}:
				default: // it is told already
				}
			}
			if len(left) > 0 {
				wait.Reset(left[0])
				left = left[1:]
			}
		}
	}()
	return func() {
		select {
		case poked <- struct{}{}:
		default:
		}
	}
}
