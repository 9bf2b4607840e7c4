// Command grafana reads a dashboard as Grafana's published types have it, and prints every field that they do not know and
// every value that they do not allow: grafana FILE. The exit code is 1 if there is any.
package main

import (
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: grafana FILE")
		os.Exit(2)
	}
	raw, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	// Options of panels and queries are checked by the types of their plugins.
	plugins.RegisterDefaultPlugins()
	var read dashboard.Dashboard
	// An empty list of errors is an error, too, but says nothing.
	for _, err := range []error{read.UnmarshalJSONStrict(raw), read.Validate()} {
		if err != nil && err.Error() != "" {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
