/**
 * What the guides say about Kubernetes, done word for word on a bare Debian: a kubelet alone with the configuration of
 * docs/operate/kubelet.md, or, with `cluster`, docs/operate/kubeadm.md up to a pod of `kubectl run`, and then every
 * block of the other guides that needs a cluster.
 *
 *   node test/rig/kubernetes-scenario.ts kubelet|cluster STORAGE FOLDER
 *
 * FOLDER has the .deb, STORAGE is a registry's with the images of the control plane. In a VM with systemd by
 * test/rig/vm/kubernetes.ts, else in a throw-away root by test/rig/kubernetes.ts. Ends with status 1 at the first thing
 * that is not as the page says.
 */
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { CONTAINERDS } from './build.ts';
import { mayLowerOomScore } from './containerd.ts';
import { blocksOf, type GuideBlock } from './guides.ts';
import { scenarioOf } from './kubernetes-images.ts';
import { kubeletHere, logOf, makeNode, put } from './kubernetes-node.ts';
import { BIN, privateFolder, SYSTEMD } from './paths.ts';
import { GivenUp, type Output, run, waitFor } from './proc.ts';
import { startRegistry } from './registry.ts';
import { patientWatchdog } from './watchdog.ts';

const [word, storage = '', packages = ''] = process.argv.slice(2);
const what = scenarioOf(word);
/** The VM is emulated. */
const PATIENCE_MS = SYSTEMD ? 1_800_000 : 300_000;
const PATIENCE = '30m0s';
const MANIFESTS = '/etc/kubernetes/manifests';
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
    // It says phase by phase what it does, for a quarter of an hour and more where it is emulated.
    ...(/^kubeadm /.test(lines) && { follow: (text) => void process.stdout.write(text) }),
  });
  const text = `${lines.trimEnd().replaceAll('\n', ' ⏎ ')} (${Math.round((performance.now() - began) / 1000)} s)`;
  if (check) assert.equal(ended.code, 0, `status ${ended.code} of ${text}\n${ended.stdout}${ended.stderr}`);
  if (check) console.log(`run: ${text}`);
  return ended;
}

/** The words of the kubelet that a configuration which it does not wholly take leads to. */
const COMPLAINTS = /unknown field|strict decoding|unrecognized feature gate|invalid configuration|deprecated/i;
/** What kubectl says while the control plane, which is on this node, is away or comes back. */
const AWAY =
  /Unavailable|was refused|connection refused|i\/o timeout|etcdserver|EOF|TLS handshake|not found|Forbidden|timed out|deadline|Timeout|request canceled/;

await makeNode(what, folder, packages, dirname(storage));
const registry = await startRegistry({ folder, storage, readOnly: true });

/** As an operator with a mirror has it. */
function useRegistry(): void {
  mkdirSync('/etc/sluice/conf.d', { recursive: true });
  writeFileSync('/etc/sluice/conf.d/00-rig.toml', `[images]\nregistry_config = "${registry.certsDir}"\n`);
}

async function typeBlock({ text, mark }: GuideBlock): Promise<void> {
  if (mark?.kind === 'only in the VM' && !SYSTEMD) return console.log(`${mark.kind}: ${text.trimEnd()}`);
  const filled = text
    .replace('<the manifest of Flannel, Calico or Cilium>', 'network.yaml')
    .replaceAll(/\bNODE\b/g, hostname());
  for (const line of filled.trimEnd().split('\n')) {
    if (/^export KUBECONFIG=/.test(line)) continue;
    if (/^kubectl /.test(line)) await kubectl(line);
    else if (/^apt /.test(line)) await install(line);
    else await type(line);
  }
}

/** The package starts the daemon where systemd is. */
async function install(line: string): Promise<void> {
  await type(line);
  if (!SYSTEMD) await type('systemctl start sluiced');
}

/** A line that asks the control plane, again as long as that is away. */
async function kubectl(line: string): Promise<Output> {
  return waitFor(line, PATIENCE_MS, async () => {
    const ended = await type(line, { check: false });
    if (ended.code === 0) console.log(`run: ${line}`);
    else if (AWAY.test(ended.stderr)) await sleep(1000);
    else throw new GivenUp(`status ${ended.code} of ${line}\n${ended.stdout}${ended.stderr}`);
    return ended.code === 0 ? ended : undefined;
  });
}

// ---- The kubelet alone

/** The page's configuration, and what a kubelet without a cluster needs besides. */
async function kubeletAlone(): Promise<void> {
  await install('apt-get install ./sluice_0.1.0_amd64.deb');
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
  put('/var/lib/kubelet/config.yaml', stringify({ ...parse(page.text), ...alone, ...kubeletHere() }));
  put(
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
  await type('systemctl enable --now kubelet');
  const ask = async (path: string) => (await type(`curl -sk https://127.0.0.1:10250${path}`, { check: false })).stdout;
  const log = async () => {
    const text = await logOf('kubelet');
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
  // As the line above it says: the runtime is asked.
  if (!SYSTEMD) wanted.cgroupDriver = 'cgroupfs';
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
  const inspected = JSON.parse(
    (
      await type(
        'crictl -r unix:///run/sluice/sluice.sock inspect $(crictl -r unix:///run/sluice/sluice.sock ps -q | head -1)',
      )
    ).stdout,
  ) as { info: { pid: number } };
  assert.match(readFileSync(`/proc/${inspected.info.pid}/cgroup`, 'utf8'), SYSTEMD ? /kubepods\.slice/ : /kubepods\//);
  seen('its container is in a cgroup below kubepods');
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
  seen('the pod goes with its manifest');
}

// ---- A cluster

/** A kubelet's and a cluster's settings for an emulated machine, whose leases and elections run out otherwise. */
const SLOW_KUBELET = {
  runtimeRequestTimeout: PATIENCE,
  nodeLeaseDurationSeconds: 600,
  // kube-apiserver gives up where its first minute is too short, and those that ask it with it.
  crashLoopBackOff: { maxContainerRestartPeriod: '10s' },
};
const SLOW_CLUSTER = {
  encryptionAlgorithm: 'ECDSA-P256',
  controllerManager: {
    extraArgs: [
      { name: 'leader-elect', value: 'false' },
      { name: 'node-monitor-grace-period', value: '10m' },
    ],
  },
  scheduler: { extraArgs: [{ name: 'leader-elect', value: 'false' }] },
  etcd: {
    local: {
      extraArgs: [
        { name: 'heartbeat-interval', value: '2000' },
        { name: 'election-timeout', value: '20000' },
      ],
    },
  },
};

/**
 * Requests of CPU, which are weights. By kubeadm's own, etcd has 100 of the pods' 650: on two emulated processors its
 * reads took half a minute while everything else started, and kube-apiserver gave up on them.
 */
const SLOW_REQUESTS = { etcd: '500m', 'kube-apiserver': '500m' };

/** The page's file; the rig gives everything more time where it is emulated, and leaves out what this machine lacks. */
function kubeadmFile(): void {
  const [page] = blocksOf('kubeadm.md').filter(({ kind }) => kind === 'yaml');
  assert.ok(page);
  const documents = parseAllDocuments(page.text).map((document) => document.toJS() as Record<string, unknown>);
  for (const document of documents) {
    if (document.kind === 'KubeletConfiguration') Object.assign(document, kubeletHere(), SYSTEMD ? SLOW_KUBELET : {});
    if (document.kind === 'ClusterConfiguration' && SYSTEMD) Object.assign(document, SLOW_CLUSTER);
    if (document.kind !== 'InitConfiguration') continue;
    if (SYSTEMD) {
      const patches = join(folder, 'patches');
      for (const [name, cpu] of Object.entries(SLOW_REQUESTS)) {
        const patch = { spec: { containers: [{ name, resources: { requests: { cpu } } }] } };
        put(join(patches, `${name}+strategic.yaml`), stringify(patch));
      }
      document.patches = { directory: patches };
      document.timeouts = {
        controlPlaneComponentHealthCheck: PATIENCE,
        etcdAPICall: PATIENCE,
        kubeletHealthCheck: PATIENCE,
        kubernetesAPICall: PATIENCE,
        tlsBootstrap: PATIENCE,
      };
    } else {
      // Where the kernel's configuration and cgroups are the workplace's, and step 1 was left out.
      const ignorePreflightErrors = [
        'SystemVerification',
        'Swap',
        'FileContent--proc-sys-net-bridge-bridge-nf-call-iptables',
      ];
      Object.assign(document.nodeRegistration as object, { ignorePreflightErrors });
    }
  }
  writeFileSync(join(folder, 'kubeadm.yaml'), documents.map((document) => stringify(document)).join('---\n'));
}

const READY = /^\S+ +Ready/m;

async function nodeReady(): Promise<void> {
  await waitFor('the node to be Ready', PATIENCE_MS, async () => {
    await sleep(1000);
    const { stdout } = await type('kubectl get nodes', { check: false });
    return READY.test(stdout) || undefined;
  });
  seen((await kubectl('kubectl get nodes -o wide')).stdout);
}

async function cluster(): Promise<void> {
  await type('systemctl enable kubelet');
  kubeadmFile();
  useRegistry();
  for (const block of blocksOf('kubeadm.md')) {
    if (block.kind !== 'sh') continue;
    await typeBlock(block);
    if (/kubectl apply/.test(block.text)) {
      await nodeReady();
      await kubectl('kubectl get serviceaccount default');
    }
  }
  seen((await kubectl('kubectl get pods -A -o wide')).stdout);
  seen('kubeadm.md from top to bottom');
  await useCluster();
  for (const block of blocksOf('install.md')) if (block.mark?.kind === 'only in a cluster') await typeBlock(block);
  await kubectl(`kubectl uncordon ${hostname()}`);
  await fromContainerd();
}

/** What people do with pods, beside `kubectl run` and `kubectl logs`, which the page has. */
async function useCluster(): Promise<void> {
  await kubectl('kubectl describe pod hello');
  await kubectl('kubectl delete pod hello');
  const page = 'echo from inside >/tmp/index.html; echo up; exec httpd -f -p 8080 -h /tmp';
  await kubectl(`kubectl run web --image=busybox --restart=Never --port=8080 -- sh -c '${page}'`);
  await kubectl(`kubectl wait --for=condition=Ready pod/web --timeout=${Math.round(PATIENCE_MS / 1000)}s`);
  assert.equal((await kubectl('kubectl logs web')).stdout, 'up\n');
  assert.equal((await kubectl('kubectl exec web -- cat /tmp/index.html')).stdout, 'from inside\n');
  assert.equal((await kubectl('echo typed | kubectl exec -i web -- cat')).stdout, 'typed\n');
  const failed = await type("kubectl exec web -- sh -c 'exit 7'", { check: false });
  assert.equal(failed.code, 7);
  const forwarded = `kubectl port-forward pod/web 18080:8080 >forward.log & forward=$!
for try in $(seq 100); do curl -sf http://127.0.0.1:18080/ && break; sleep 0.5; done
kill $forward`;
  assert.equal((await type(forwarded)).stdout, 'from inside\n');
  await kubectl('kubectl cp web:/tmp/index.html index.html');
  assert.equal(readFileSync(join(folder, 'index.html'), 'utf8'), 'from inside\n');
  seen('kubectl run, logs, describe, exec with input and status, port-forward and cp work');
  // CoreDNS is a stand-in that answers no probe: the kubelet restarts it after a minute or two.
  const counts = "jsonpath='{range .items[*]}{.status.containerStatuses[*].restartCount} {end}'";
  const restarts = async () => (await kubectl(`kubectl get pods -A -l 'k8s-app!=kube-dns' -o ${counts}`)).stdout.trim();
  const before = await restarts();
  // A probe of the control plane may well run out while that comes up in an emulated machine.
  if (!SYSTEMD) assert.match(before, /^[0 ]+$/, 'restarts of all containers');
  await type('systemctl restart sluiced');
  assert.equal((await kubectl('kubectl exec web -- cat /tmp/index.html')).stdout, 'from inside\n');
  assert.equal(await restarts(), before, 'restarts of all containers');
  seen('a restart of the daemon under the cluster: no container was restarted');
  await kubectl('kubectl delete pod web --wait');
  await waitFor('the pod to go', PATIENCE_MS, async () => {
    await sleep(1000);
    return !/\bweb\b/.test((await type('sluice pods -a')).stdout) || undefined;
  });
  seen('kubectl delete: the runtime has it no more');
}

/** docs/operate/from-containerd.md, the way back first: the cluster runs with Sluice by now. */
async function fromContainerd(): Promise<void> {
  const containerd = await containerdHere();
  if (!containerd) return;
  const blocks = blocksOf('from-containerd.md').filter(({ kind }) => kind === 'sh');
  const isBack = ({ heading }: GuideBlock) => heading === 'Back';
  const runtime = async () =>
    (await kubectl("kubectl get nodes -o jsonpath='{.items[0].status.nodeInfo.containerRuntimeVersion}'")).stdout;
  for (const block of blocks.filter(isBack)) await typeBlock(block);
  await waitFor(
    'the node to say containerd',
    PATIENCE_MS,
    async () => /^containerd:/.test(await runtime()) || undefined,
  );
  await nodeReady();
  seen('from-containerd.md: back to containerd');
  await type('systemctl enable --now sluiced'); // as an installation does
  for (const block of blocks.filter((one) => !isBack(one))) {
    await typeBlock(block);
    if (/uncordon/.test(block.text)) {
      await waitFor('the node to say sluice', PATIENCE_MS, async () => /^sluice:/.test(await runtime()) || undefined);
      await nodeReady();
    }
  }
  await kubectl('kubectl run again --image=busybox --restart=Never -- echo again');
  await kubectl(
    `kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/again --timeout=${Math.round(PATIENCE_MS / 1000)}s`,
  );
  assert.equal((await kubectl('kubectl logs again')).stdout, 'again\n');
  seen('from-containerd.md: from containerd to Sluice, and a pod runs');
}

/** A containerd that this kubelet takes, which Debian 12's is not, with the registry. */
async function containerdHere(): Promise<boolean> {
  const daemon = join(BIN, basename(CONTAINERDS['2.4.2'].daemon));
  if (!existsSync(daemon)) {
    console.log('skipped: from-containerd.md: there is no containerd 2.4 (node test/rig/build.ts containerd-2.4)');
    return false;
  }
  for (const [from, to] of [
    [daemon, 'containerd'],
    [join(BIN, '2.4/containerd-shim-runc-v2'), 'containerd-shim-runc-v2'],
  ] as const) {
    rmSync(`/usr/bin/${to}`);
    copyFileSync(from, `/usr/bin/${to}`);
    chmodSync(`/usr/bin/${to}`, 0o755);
  }
  put(
    '/etc/containerd/config.toml',
    `version = 3
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = '${registry.certsDir}'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = ${!mayLowerOomScore()}
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['/opt/cni/bin', '/usr/lib/cni']
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
options = { SystemdCgroup = ${SYSTEMD} }
`,
  );
  return true;
}

if (SYSTEMD) patientWatchdog();
try {
  if (what === 'kubelet') await kubeletAlone();
  else await cluster();
} catch (error) {
  console.log(`failed: ${error instanceof Error ? error.message : error}`);
  for (const unit of ['kubelet', 'sluiced'] as const)
    console.log((await logOf(unit)).trimEnd().split('\n').slice(-40).join('\n'));
  for (const line of ['sluice status', 'sluice pods -a', 'sluice ps -a']) {
    const { stdout, stderr } = await type(line, { check: false });
    console.log(stdout + stderr);
  }
  console.log(readFileSync('/proc/loadavg', 'utf8'));
  process.exitCode = 1;
} finally {
  await registry.stop();
}
