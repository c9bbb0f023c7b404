package main

import (
	"slices"

	"github.com/spf13/pflag"
)

// clusterFlags registers all settings' flags for a command that acts on a
// cluster that exists, so that the flags it was started with can simply be
// repeated. Its help shows only those that say which cluster is meant, and
// the further ones named.
func (c *config) clusterFlags(fs *pflag.FlagSet, further ...string) {
	c.flags(fs)
	shown := append(further, "name", "data-dir", "config")
	fs.VisitAll(func(f *pflag.Flag) { f.Hidden = !slices.Contains(shown, f.Name) })
}
