// Package supervisor starts the parts of a cluster as children of itself, tells when it is ready, carries out faults
// on command, and leaves nothing behind. It knows processes, files and HTTP health checks; what the parts do is not its affair.
package supervisor

import (
	"encoding/json"
	"os"

	"tidegate.dev/controlplane/internal/addr"
)

// Config is what `part NAME FILE` reads: all that a part must know.
type Config struct {
	Plan         addr.Plan         `json:"plan"`
	Dir          string            `json:"dir"`
	PKI          string            `json:"pki"`
	Server       string            `json:"server"`
	ServerPort   int               `json:"serverPort"`
	EtcdPort     int               `json:"etcdPort"`
	EtcdPeerPort int               `json:"etcdPeerPort"`
	ManagerPort  int               `json:"managerPort"`
	Nodes        int               `json:"nodes"`
	Controllers  string            `json:"controllers"`
	Extra        map[string]string `json:"extra"`
	Images       []string          `json:"images"`
	Kubeconfig   string            `json:"kubeconfig"`
}

// ReadConfig reads what writeTo wrote.
func ReadConfig(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	return c, json.Unmarshal(text, c)
}

func (c *Config) writeTo(path string) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// DefaultControllers are the controllers that run unless --controllers says otherwise. Those that need a cloud, disks
// or metrics are left out, and node-lifecycle, which would evict the pods of a stopped node part.
const DefaultControllers = "deployment-controller,replicaset-controller,daemonset-controller,statefulset-controller,job-controller,cronjob-controller," +
	"endpoints-controller,endpointslice-controller,endpointslice-mirroring-controller,namespace-controller,garbage-collector-controller," +
	"serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,clusterrole-aggregation-controller," +
	"disruption-controller,service-cidr-controller,validatingadmissionpolicy-status-controller"
