/**
 * The guides about Kubernetes on this machine, in a throw-away copy of its root file system and without systemd: a
 * kubelet with docs/operate/kubelet.md, or a cluster of one node with docs/operate/kubeadm.md and whatever other guides
 * type into one (test/rig/kubernetes-scenario.ts).
 *
 *   npm run kubernetes [-- kubelet|cluster]        cluster when nothing is said
 *
 * The first time it builds Kubernetes from the Go module proxy, which takes some 15 minutes of two cores; then some
 * five. `node test/rig/vm/kubernetes.ts` does the same with systemd, in a VM that is emulated.
 */
import { cpSync, existsSync, globSync, mkdirSync, rmdirSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { buildKubernetes, kubernetesStorage, scenarioOf } from './kubernetes-images.ts';
import { CGROUP } from './kubernetes-node.ts';
import { skipUnlessRoot } from './needs.ts';
import { sharedPackages } from './packages.ts';
import { privateFolder, SYSTEMD } from './paths.ts';
import { waitFor } from './proc.ts';
import { inThrowAwayRoot } from './throw-away.ts';
import { tidyAtSignal } from './tidy.ts';

const LIMIT_MS = 40 * 60_000;

const what = scenarioOf(process.argv[2] ?? 'cluster');
const missing = SYSTEMD
  ? 'this machine runs systemd, which is not in the throw-away root: node test/rig/vm/kubernetes.ts'
  : skipUnlessRoot('go', 'runc', 'containerd-shim-runc-v2', 'docker-registry', 'dpkg-deb', 'unshare', 'conntrack');
if (missing) console.log(`skipped: ${missing}`);
else {
  await buildKubernetes(what);
  const storage = await kubernetesStorage(what);
  const made = await sharedPackages();
  const packages = privateFolder('sluice-kube');
  for (const file of globSync('*', { cwd: dirname(made.deb) }))
    cpSync(join(dirname(made.deb), file), join(packages, basename(file)));
  const hierarchies = globSync('/sys/fs/cgroup/*/cgroup.procs').map((file) => join(dirname(file), CGROUP));
  const takeAway = async () => {
    rmSync(packages, { recursive: true, force: true });
    for (const folder of hierarchies)
      await waitFor(`the processes of ${folder} to end`, 30_000, () => {
        removeCgroup(folder);
        return true;
      });
  };
  const untidy = tidyAtSignal(takeAway);
  for (const folder of hierarchies) mkdirSync(folder, { recursive: true });
  try {
    const script = 'test/rig/kubernetes-scenario.ts';
    const { code } = await inThrowAwayRoot({
      script,
      args: [what, storage],
      packages,
      address: '192.0.2.2',
      timeoutMs: LIMIT_MS,
      aloud: true,
    });
    process.exitCode = code === 0 ? 0 : 1;
  } finally {
    await takeAway();
    untidy();
  }
}

/** With all below it. Throws while a process is in it: those of a namespace that has ended go a moment later. */
function removeCgroup(folder: string): void {
  if (!existsSync(folder)) return;
  for (const child of globSync('*/', { cwd: folder })) removeCgroup(join(folder, child));
  rmdirSync(folder);
}
