// Package parts becomes one of the programs of a control plane: etcd, kube-apiserver, kube-controller-manager, kubectl.
package parts

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	_ "time/tzdata" // CronJobs name time zones, and a machine may lack the table

	"go.etcd.io/etcd/server/v3/embed"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // credentials plugins of kubectl
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics of the parts
	_ "k8s.io/component-base/metrics/prometheus/version"  // version metric of the parts
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"

	"tidegate.dev/controlplane/internal/supervisor"
)

// Etcd serves until the process is killed. It does not sync to disk: what a test cluster holds need not outlive the
// machine, and a killed process loses nothing.
func Etcd(c *supervisor.Config) error {
	local := func(port int) []url.URL { return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}} }
	e := embed.NewConfig()
	e.Name = "test"
	e.Dir = filepath.Join(c.Dir, "etcd")
	e.LogLevel = "warn"
	e.LogOutputs = []string{"stderr"}
	e.ListenClientUrls, e.AdvertiseClientUrls = local(c.EtcdPort), local(c.EtcdPort)
	e.ListenPeerUrls, e.AdvertisePeerUrls = local(c.EtcdPeerPort), local(c.EtcdPeerPort)
	e.InitialCluster = e.InitialClusterFromName(e.Name)
	e.SocketOpts.ReusePort = true
	e.UnsafeNoFsync = true
	// A lone member need not wait a second for an election that nobody contests.
	e.TickMs, e.ElectionMs = 20, 100
	server, err := embed.StartEtcd(e)
	if err != nil {
		return err
	}
	select {
	case err := <-server.Err():
		return err
	case <-server.Server.StopNotify():
		return errors.New("etcd stopped")
	}
}

// APIServer runs kube-apiserver and returns its exit code.
func APIServer(c *supervisor.Config) int {
	pki := func(name string) string { return filepath.Join(c.PKI, name) }
	command := apiserver.NewAPIServerCommand()
	command.SetArgs(append([]string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", c.EtcdPort),
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.ServerPort),
		"--permit-port-sharing=true",
		// Slices refuse loopback addresses: the Service `kubernetes` gets no endpoints, and the node part forwards it.
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--service-cluster-ip-range=" + c.Plan.Services().String(),
		"--authorization-mode=RBAC",
		"--allow-privileged=true",
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"), "--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
	}, strings.Fields(c.Extra["apiserver"])...))
	return cli.Run(command)
}

// ControllerManager runs kube-controller-manager and returns its exit code.
func ControllerManager(c *supervisor.Config) int {
	pki := func(name string) string { return filepath.Join(c.PKI, name) }
	command := kcm.NewControllerManagerCommand()
	command.SetArgs(append([]string{
		"--kubeconfig=" + c.Kubeconfig,
		"--authentication-skip-lookup=true",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.ManagerPort), "--permit-port-sharing=true",
		// Without a certificate it writes one to a folder of the system.
		"--tls-cert-file=" + pki("kcm.crt"), "--tls-private-key-file=" + pki("kcm.key"),
		"--controllers=" + c.Controllers,
		"--leader-elect=false",
		"--root-ca-file=" + pki("ca.crt"), "--service-account-private-key-file=" + pki("sa.key"),
		"--service-cluster-ip-range=" + c.Plan.Services().String(),
		// The default of 20 requests a second crawls at hundreds of pods.
		"--kube-api-qps=1000", "--kube-api-burst=2000",
		"--concurrent-endpoint-syncs=10", "--concurrent-service-endpoint-syncs=10",
	}, strings.Fields(c.Extra["kcm"])...))
	return cli.Run(command)
}

// Kubectl runs kubectl with the arguments of this process, the first of which must be the program's name.
func Kubectl() int {
	logs.GlogSetter(kubectl.GetLogVerbosity(os.Args)) //nolint:errcheck // a wrong -v is reported by the command itself
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
	return 0
}
