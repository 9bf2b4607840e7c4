// Package node is the fake node.
package node

import "tidegate.dev/controlplane/internal/supervisor"

func Inside(args []string) int { return 0 }

func Main(c *supervisor.Config) error { return nil }
