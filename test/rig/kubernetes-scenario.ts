/**
 * What the guides say about Kubernetes, done word for word on a bare Debian with systemd (a VM): a kubelet alone with
 * the configuration of docs/operate/kubelet.md, and then, with `cluster`, docs/operate/kubeadm.md up to a pod of
 * `kubectl run` (which has not been seen to its end yet).
 *
 *   node test/rig/kubernetes-scenario.ts kubelet|cluster FOLDER STORAGE
 *
 * FOLDER has the .deb, STORAGE is a registry's with the images of the control plane (test/rig/vm/kubernetes.ts fills
 * it). Ends with status 1 at the first thing that is not as the page says.
 */
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { blocksOf, type GuideBlock } from './guides.ts';
import { BIN, privateFolder } from './paths.ts';
import { type Output, run, waitFor } from './proc.ts';
import { startRegistry } from './registry.ts';
import { patientWatchdog } from './watchdog.ts';

const [what = '', packages = '', storage = ''] = process.argv.slice(2);
/** The VM is emulated. */
const PATIENCE_MS = 1_800_000;
const PATIENCE = '30m0s';
const MANIFESTS = '/etc/kubernetes/manifests';
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

const folder = privateFolder('sluice-kubernetes');
const env: NodeJS.ProcessEnv = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  DEBIAN_FRONTEND: 'noninteractive',
  KUBECONFIG: '/etc/kubernetes/admin.conf',
};
const seen = (text: string) => console.log(`seen: ${text}`);

async function type(lines: string, { check = true } = {}): Promise<Output> {
  const began = performance.now();
  const ended = await run('bash', ['--norc', '-eu', '-c', lines], {
    cwd: folder,
    env,
    check: false,
    input: 'y\n'.repeat(8),
    timeoutMs: PATIENCE_MS,
  });
  const text = `${lines.trimEnd().replaceAll('\n', ' ⏎ ')} (${Math.round((performance.now() - began) / 1000)} s)`;
  if (check) assert.equal(ended.code, 0, `status ${ended.code} of ${text}\n${ended.stdout}${ended.stderr}`);
  if (check) console.log(`run: ${text}`);
  return ended;
}

const fails = (error: unknown) => console.log(`failed: ${error instanceof Error ? error.message : error}`);

/** The words of the kubelet that a configuration which it does not wholly take leads to. */
const COMPLAINTS = /unknown field|strict decoding|unrecognized feature gate|invalid configuration|deprecated/i;

async function kubeletLog(): Promise<string> {
  return (await run('journalctl', ['-u', 'kubelet', '-o', 'cat', '--no-pager'], {})).stdout;
}

// ---- The machine

for (const name of what === 'cluster' ? ['kubelet', 'crictl', 'kubeadm', 'kubectl'] : ['kubelet', 'crictl']) {
  copyFileSync(join(BIN, name), `/usr/bin/${name}`);
  chmodSync(`/usr/bin/${name}`, 0o755);
}
const [deb] = (await run('sh', ['-c', 'ls "$1"/sluice_0.1.0_*.deb', 'sh', packages])).stdout.trim().split('\n');
copyFileSync(deb ?? '', join(folder, 'sluice_0.1.0_amd64.deb'));
// kubeadm looks at the kernel's configuration.
if (what === 'cluster') await run('sh', ['-c', 'cp "$1"/config-* /boot/', 'sh', packages]);
const registry = await startRegistry({ folder, storage, readOnly: true });
mkdirSync('/etc/systemd/system/kubelet.service.d', { recursive: true });
writeFileSync('/etc/systemd/system/kubelet.service', UNIT);
writeFileSync(join(folder, 'network.yaml'), NETWORK);

/** As an operator with a mirror has it. */
function useRegistry(): void {
  mkdirSync('/etc/sluice/conf.d', { recursive: true });
  writeFileSync('/etc/sluice/conf.d/00-rig.toml', `[images]\nregistry_config = "${registry.certsDir}"\n`);
}

async function typeBlock({ text }: GuideBlock): Promise<void> {
  const filled = text
    .replace('<the manifest of Flannel, Calico or Cilium>', 'network.yaml')
    .replaceAll(/\bNODE\b/g, (await run('hostname', [])).stdout.trim());
  for (const line of filled.trimEnd().split('\n')) if (!/^export KUBECONFIG=/.test(line)) await type(line);
}

// ---- The kubelet alone

/** The page's configuration, and what a kubelet without a cluster needs besides. */
async function kubeletAlone(): Promise<void> {
  await type('apt-get install ./sluice_0.1.0_amd64.deb');
  useRegistry();
  await type('systemctl reload sluiced');
  const [page] = blocksOf('kubelet.md').filter(({ kind }) => kind === 'yaml');
  assert.ok(page);
  const alone = {
    staticPodPath: MANIFESTS,
    authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
    authorization: { mode: 'AlwaysAllow' },
    enableServer: true,
  };
  mkdirSync('/var/lib/kubelet', { recursive: true });
  mkdirSync(MANIFESTS, { recursive: true });
  writeFileSync('/var/lib/kubelet/config.yaml', stringify({ ...parse(page.text), ...alone }));
  writeFileSync(
    '/etc/systemd/system/kubelet.service.d/10-alone.conf',
    '[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml --v=2\n',
  );
  writeFileSync(
    join(MANIFESTS, 'hello.yaml'),
    stringify({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'hello', namespace: 'default' },
      spec: {
        containers: [
          {
            name: 'hello',
            image: 'docker.io/library/busybox:latest',
            command: ['sh', '-c', 'echo hello; exec sleep 1000000'],
            resources: { limits: { memory: '32Mi', cpu: '200m' } },
          },
        ],
      },
    }),
  );
  await type('systemctl daemon-reload');
  await type('systemctl enable --now kubelet');
  const ask = async (path: string) => (await type(`curl -sk https://127.0.0.1:10250${path}`, { check: false })).stdout;
  const log = async () => {
    const text = await kubeletLog();
    assert.doesNotMatch(text, /failed to run Kubelet|command failed/i, text.slice(-3000));
    return text;
  };
  await waitFor('the static pod to run', PATIENCE_MS, async () => {
    await log();
    await sleep(5000);
    const pods = JSON.parse(await ask('/pods')) as { items: { status: { phase: string } }[] };
    return pods.items.some(({ status }) => status.phase === 'Running') || undefined;
  });
  const text = await log();
  const complaints = text.split('\n').filter((line) => COMPLAINTS.test(line));
  for (const line of complaints) console.log(`kubelet: ${line}`);
  assert.deepEqual(
    complaints.filter((line) => !/deprecated/i.test(line)),
    [],
  );
  seen('a kubelet takes every line of docs/operate/kubelet.md, and its static pod runs');
  const shown = JSON.parse(await ask('/configz')) as { kubeletconfig: Record<string, unknown> };
  const wanted = parse(page.text) as Record<string, unknown>;
  for (const [key, value] of Object.entries(wanted)) {
    if (key === 'apiVersion' || key === 'kind' || key === 'runtimeRequestTimeout') continue;
    assert.deepEqual(shown.kubeletconfig[key], value, key);
  }
  seen('its configz has each of them as the page does');
  const summary = await waitFor('statistics', PATIENCE_MS, async () => {
    const { pods } = JSON.parse(await ask('/stats/summary')) as {
      pods: { podRef: { name: string }; memory?: { workingSetBytes?: number } }[];
    };
    await sleep(2000);
    return pods.find(({ podRef, memory }) => podRef.name.startsWith('hello') && (memory?.workingSetBytes ?? 0) > 0);
  });
  seen(`statistics of the pod come from CRI: ${JSON.stringify(summary.memory)}`);
  await type('sluice pods');
  assert.match(
    (await type('systemctl show -P Slice "sluice-$(crictl -r unix:///run/sluice/sluice.sock ps -q | head -1).scope"'))
      .stdout,
    /kubepods/,
  );
  seen('its container is in a scope below kubepods.slice');
  // An upgrade's restart under the kubelet.
  const restarts = async () =>
    (await type('crictl -r unix:///run/sluice/sluice.sock ps -a -o json', { check: false })).stdout;
  const before = JSON.parse(await restarts()) as { containers: { id: string }[] };
  await type('systemctl restart sluiced');
  await sleep(30_000);
  const after = JSON.parse(await restarts()) as { containers: { id: string; state: string }[] };
  assert.deepEqual(
    after.containers.map(({ id }) => id),
    before.containers.map(({ id }) => id),
  );
  seen('a restart of the daemon under the kubelet: the same container, not restarted');
  rmSync(join(MANIFESTS, 'hello.yaml'));
  await waitFor('the pod to go', PATIENCE_MS, async () => {
    await sleep(3000);
    return !/hello/.test((await type('sluice pods -a', { check: false })).stdout) || undefined;
  });
  await type('systemctl disable --now kubelet');
  rmSync('/etc/systemd/system/kubelet.service.d/10-alone.conf');
  rmSync('/var/lib/kubelet', { recursive: true });
  seen('the pod goes with its manifest');
}

// ---- A cluster

/** The page's file; the rig gives everything more time, as an emulated machine needs it. */
function kubeadmFile(): void {
  const [page] = blocksOf('kubeadm.md').filter(({ kind }) => kind === 'yaml');
  assert.ok(page);
  const documents = parseAllDocuments(page.text).map((document) => document.toJS() as Record<string, unknown>);
  for (const document of documents) {
    if (document.kind !== 'InitConfiguration') continue;
    document.timeouts = {
      controlPlaneComponentHealthCheck: PATIENCE,
      kubeletHealthCheck: PATIENCE,
      kubernetesAPICall: PATIENCE,
      tlsBootstrap: PATIENCE,
    };
  }
  writeFileSync(join(folder, 'kubeadm.yaml'), documents.map((document) => stringify(document)).join('---\n'));
}

async function cluster(): Promise<void> {
  writeFileSync('/etc/systemd/system/kubelet.service.d/10-kubeadm.conf', DROP_IN);
  await type('systemctl daemon-reload');
  await type('systemctl enable kubelet');
  kubeadmFile();
  useRegistry();
  for (const block of blocksOf('kubeadm.md')) {
    if (block.kind !== 'sh') continue;
    await typeBlock(block);
    if (/kubectl apply/.test(block.text)) {
      await waitFor('the node to be Ready', PATIENCE_MS, async () => {
        await sleep(5000);
        const { stdout } = await type('kubectl get nodes', { check: false });
        return / Ready /.test(stdout) || undefined;
      });
      seen((await type('kubectl get nodes -o wide')).stdout);
      await waitFor('the default service account', PATIENCE_MS, async () => {
        await sleep(3000);
        return (await type('kubectl get serviceaccount default', { check: false })).code === 0 || undefined;
      });
    }
  }
  seen((await type('kubectl get pods -A -o wide')).stdout);
  seen('kubeadm.md from top to bottom');
}

patientWatchdog();
try {
  if (what === 'kubelet') await kubeletAlone();
  else if (what === 'cluster') await cluster();
  else throw new Error(`what is "${what}"? kubelet or cluster`);
} catch (error) {
  fails(error);
  const { stdout } = await run(
    'journalctl',
    ['-u', 'kubelet', '-u', 'sluiced', '-o', 'cat', '--no-pager', '-n', '60'],
    {},
  );
  console.log(stdout);
  for (const words of [
    ['sluice', 'status'],
    ['sluice', 'pods', '-a'],
    ['sluice', 'ps', '-a'],
  ]) {
    const [name = '', ...args] = words;
    console.log((await run(name, args, { check: false, env })).stdout);
  }
  console.log(readFileSync('/proc/loadavg', 'utf8'));
  process.exitCode = 1;
} finally {
  await registry.stop();
}
