/**
 * What a node has before the guides about Kubernetes begin: its programs, the kubelet's unit, and what starts units.
 */
import { chmodSync, copyFileSync, existsSync, globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { Scenario } from './kubernetes-images.ts';
import { BIN, SYSTEMD } from './paths.ts';
import { run } from './proc.ts';

/** Below which all pods of a node without systemd are: the name of a folder in each hierarchy of cgroups. */
export const CGROUP = 'sluicekubernetes';

/** The units of Kubernetes' own packages (k8s.io/release, cmd/krel/templates/latest/kubelet). */
const UNIT = `[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
`;
const DROP_IN = `[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`;
/** A kubelet without a cluster. */
const ALONE = '[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml --v=2\n';

/**
 * Stands for systemctl where systemd is not PID 1: starts and ends, as their units do, what the guides (and kubeadm)
 * name. A start of sluiced is over when it serves, a reload when it has counted.
 */
const SYSTEMCTL = `#!/bin/sh
verb= units= now=
for word; do
  case $word in
    --now) now=yes ;;
    -*) ;;
    *) if [ -z "$verb" ]; then verb=$word; else units="$units \${word%.service}"; fi ;;
  esac
done
mkdir -p /run/stand-in
running() {
  pid=$(cat "/run/stand-in/$1" 2>/dev/null) && [ -n "$pid" ] && [ -e "/proc/$pid/stat" ] && ! grep -q ') Z ' "/proc/$pid/stat"
}
lines() { grep -c '"configuration reloaded"' /var/log/sluiced.log; }
launch() {
  name=$1
  shift
  rm -f "/run/stand-in/$name"
  setsid sh -c 'echo $$ >"/run/stand-in/$1"; shift; exec "$@"' sh "$name" "$@" >>"/var/log/$name.log" 2>&1 </dev/null &
  while [ ! -s "/run/stand-in/$name" ]; do sleep 0.05; done
}
start() {
  running "$1" && return 0
  case $1 in
    sluiced)
      launch sluiced /usr/sbin/sluiced
      for try in $(seq 300); do
        sluice status >/dev/null 2>&1
        [ $? -ne 3 ] && return 0
        sleep 0.1
      done
      return 1 ;;
    containerd) launch containerd /usr/bin/containerd ;;
    kubelet)
      # systemd starts it again and again until kubeadm has written this; kubeadm starts it itself then.
      [ -e /var/lib/kubelet/config.yaml ] || return 0
      if [ -e /var/lib/kubelet/alone ]; then launch kubelet /usr/bin/kubelet --config=/var/lib/kubelet/config.yaml --v=2
      else
        KUBELET_KUBEADM_ARGS=
        [ -e /var/lib/kubelet/kubeadm-flags.env ] && . /var/lib/kubelet/kubeadm-flags.env
        launch kubelet /usr/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \\
          --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
      fi ;;
    *) echo "no unit $1" >&2; return 5 ;;
  esac
}
stop() {
  running "$1" || return 0
  kill -TERM "$pid"
  for try in $(seq 1000); do running "$1" || return 0; sleep 0.1; done
  kill -KILL "$pid"
}
for unit in $units; do
  case $verb in
    start) start "$unit" || exit $? ;;
    stop) stop "$unit" ;;
    restart) stop "$unit"; start "$unit" || exit $? ;;
    enable) [ -z "$now" ] || start "$unit" || exit $? ;;
    disable) [ -z "$now" ] || stop "$unit" ;;
    reload)
      running "$unit" || exit 1
      before=$(lines)
      kill -HUP "$pid"
      for try in $(seq 300); do [ "$(lines)" != "$before" ] && break; sleep 0.1; done
      [ "$(lines)" != "$before" ] || exit 1 ;;
    is-active) running "$unit" || exit 3 ;;
    is-enabled) ;;
    status) running "$unit" && echo "$unit: active" || { echo "$unit: inactive"; exit 3; } ;;
    *) echo "stand-in: what is $verb?" >&2; exit 1 ;;
  esac
done
`;

/** Stands for the manifest of Flannel and its like, on a cluster of one node: it leaves a configuration, as they do. */
const NETWORK = `apiVersion: apps/v1
kind: DaemonSet
metadata: { name: rig-network, namespace: kube-system }
spec:
  selector: { matchLabels: { app: rig-network } }
  template:
    metadata: { labels: { app: rig-network } }
    spec:
      hostNetwork: true
      tolerations: [{ operator: Exists }]
      containers:
        - name: install
          image: docker.io/library/busybox:latest
          imagePullPolicy: IfNotPresent
          command: [sh, -c, 'printf "%s" "$CONF" > /host/.draft && mv /host/.draft /host/10-rig.conflist && exec sleep 1000000']
          env:
            - name: CONF
              value: '{"cniVersion":"1.0.0","name":"rig","plugins":[{"type":"bridge","bridge":"rig0","isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}'
          volumeMounts: [{ name: conf, mountPath: /host }]
      volumes: [{ name: conf, hostPath: { path: /etc/cni/net.d, type: DirectoryOrCreate } }]
`;

/**
 * Puts all of it onto this machine; the .deb, and for step 5 of docs/operate/kubeadm.md network.yaml, into `folder`.
 * `kernel` may have the configuration of the machine's kernel, which kubeadm reads.
 */
export async function makeNode(what: Scenario, folder: string, packages: string, kernel: string): Promise<void> {
  for (const name of what === 'cluster' ? ['kubelet', 'crictl', 'kubeadm', 'kubectl'] : ['kubelet', 'crictl']) {
    copyFileSync(join(BIN, name), `/usr/bin/${name}`);
    chmodSync(`/usr/bin/${name}`, 0o755);
  }
  const [deb = ''] = globSync(join(packages, 'sluice_0.1.0_*.deb'));
  copyFileSync(deb, join(folder, 'sluice_0.1.0_amd64.deb'));
  mkdirSync('/boot', { recursive: true });
  for (const file of globSync(join(kernel, 'config-*'))) copyFileSync(file, join('/boot', basename(file)));
  mkdirSync('/etc/systemd/system/kubelet.service.d', { recursive: true });
  writeFileSync('/etc/systemd/system/kubelet.service', UNIT);
  writeFileSync(
    `/etc/systemd/system/kubelet.service.d/10-${what === 'cluster' ? 'kubeadm' : 'alone'}.conf`,
    what === 'cluster' ? DROP_IN : ALONE,
  );
  if (!SYSTEMD) {
    writeFileSync('/usr/local/bin/systemctl', SYSTEMCTL);
    chmodSync('/usr/local/bin/systemctl', 0o755);
    if (what === 'kubelet') {
      mkdirSync('/var/lib/kubelet', { recursive: true });
      writeFileSync('/var/lib/kubelet/alone', '');
    }
  } else {
    put('/etc/crictl.yaml', 'timeout: 600\n'); // seconds; its two are nothing in the VM, which is emulated
    await run('systemctl', ['daemon-reload']);
  }
  writeFileSync(join(folder, 'network.yaml'), NETWORK);
}

/** Keys of a kubelet's configuration that this machine needs besides, where it is not what the guides are for. */
export function kubeletHere(): Record<string, unknown> {
  if (SYSTEMD) return {};
  const v1 = !existsSync('/sys/fs/cgroup/cgroup.controllers');
  return { cgroupRoot: `/${CGROUP}`, ...(v1 ? { failCgroupV1: false } : {}) };
}

/** What a unit has said. */
export async function logOf(unit: 'kubelet' | 'sluiced'): Promise<string> {
  if (SYSTEMD) return (await run('journalctl', ['-u', unit, '-o', 'cat', '--no-pager'])).stdout;
  const file = `/var/log/${unit}.log`;
  return existsSync(file) ? readFileSync(file, 'utf8') : '';
}

/** Writes a file and the folders above it. */
export function put(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}
