// Command controlplane is a Kubernetes cluster for tests in one program: etcd, kube-apiserver, kube-controller-manager,
// kubectl, and nodes whose pods answer. README.md tells how to use it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"tidegate.dev/controlplane/internal/bench"
	"tidegate.dev/controlplane/internal/netns"
	"tidegate.dev/controlplane/internal/node"
	"tidegate.dev/controlplane/internal/parts"
	"tidegate.dev/controlplane/internal/supervisor"
)

const usage = `usage: controlplane COMMAND

  up        start a cluster; one line of JSON on standard output when it is ready; ends with standard input
            (up --help lists the flags; "stop|cont|kill|start etcd|apiserver|kcm|node" on standard input are faults)
  kubectl   kubectl of the same version; also when the program is called by that name
  netns     run a command in a network namespace in which pod addresses are local: netns -- COMMAND
  bench     start a cluster, measure it and print a table
`

// The main goroutine stays on the main thread: children carry a death signal that fires when the thread ends that forked them.
func init() { runtime.LockOSThread() }

func main() { os.Exit(run()) }

func run() int {
	if filepath.Base(os.Args[0]) == "kubectl" {
		return parts.Kubectl()
	}
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "up":
		return supervisor.Main(args)
	case "kubectl":
		os.Args = append([]string{"kubectl"}, args...)
		return parts.Kubectl()
	case "netns":
		return netns.Main(args)
	case "bench":
		return bench.Main(args)
	case "netns-inside":
		return netns.Inside(args)
	case "pod-inside":
		return node.Inside(args)
	case "part":
		return part(args)
	case "-h", "--help", "help":
		fmt.Print(usage)
		return 0
	default:
		fmt.Fprintf(os.Stderr, "controlplane: unknown command %q\n%s", os.Args[1], usage)
		return 2
	}
}

// part becomes one part of a cluster; called by the supervisor.
func part(args []string) int {
	if len(args) != 2 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	config, err := supervisor.ReadConfig(args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane part:", err)
		return 1
	}
	os.Args = []string{args[0]}
	switch args[0] {
	case "etcd":
		err = parts.Etcd(config)
	case "apiserver":
		return parts.APIServer(config)
	case "kcm":
		return parts.ControllerManager(config)
	case "node":
		err = node.Main(config)
	default:
		err = fmt.Errorf("unknown part %q", args[0])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return 1
	}
	return 0
}
