/**
 * The guides about Kubernetes in the workplace's VM, which has systemd: test/rig/kubernetes-scenario.ts.
 *
 *   node test/rig/vm/kubernetes.ts kubelet|cluster
 *
 * The machine is emulated: no time in it means anything. `node test/rig/kubernetes.ts` does the same here, without
 * systemd, in minutes.
 */
import { globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { buildKubernetes, kubernetesStorage, scenarioOf } from '../kubernetes-images.ts';
import { sharedPackages } from '../packages.ts';
import { cacheFolder, ROOT } from '../paths.ts';
import { run } from '../proc.ts';
import { haveVm, INSIDE, inVm, NODE } from './machine.ts';

const LIMIT_SECONDS = 10_800;
const what = scenarioOf(process.argv[2] ?? 'kubelet');
if (haveVm()) {
  const cluster = what === 'cluster';
  await buildKubernetes(what);
  const storage = await kubernetesStorage(what);
  const made = await sharedPackages();
  if (cluster) await kernelConfig(dirname(storage));
  const node = [...NODE, 'test/rig/kubernetes-scenario.ts', what];
  const folders = [storage, dirname(made.deb)].map((path) => join(INSIDE, relative(ROOT, path)));
  process.exitCode = await inVm([...node, ...folders], { seconds: LIMIT_SECONDS, memory: 6144 });
}

/**
 * The configuration of the VM's kernel, which kubeadm reads: a real Debian has it in /boot, from the kernel's package.
 * Written to `folder` under its own name.
 */
async function kernelConfig(folder: string): Promise<void> {
  const [image = ''] = globSync(join(homedir(), '.cache/sluice-vm/*/vmlinuz'));
  const [release = ''] = /\d+\.\d+\.\d+\+deb\d+[\w.-]*/.exec(readFileSync(image, 'latin1')) ?? [];
  const lists = cacheFolder('kernel-package');
  for (const part of ['lists/partial', 'cache/archives/partial']) mkdirSync(join(lists, part), { recursive: true });
  const source = 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian';
  writeFileSync(join(lists, 'sources.list'), `${source} bookworm-backports main\n`);
  const own = { 'Dir::Etc::SourceList': 'sources.list', 'Dir::State::Lists': 'lists', 'Dir::Cache': 'cache' };
  const options = Object.entries(own).flatMap(([key, name]) => ['-o', `${key}=${join(lists, name)}`]);
  options.push('-o', 'Dir::Etc::SourceParts=-', '-o', 'APT::Sandbox::User=root');
  await run('apt-get', ['-qq', ...options, 'update']);
  await run('apt-get', ['-qq', ...options, 'download', `linux-image-${release}`], { cwd: lists });
  const [deb = ''] = globSync(join(lists, `linux-image-${release}_*.deb`));
  await run('sh', [
    '-c',
    `dpkg-deb --fsys-tarfile "$1" | tar -xO ./boot/config-${release} > "$2"`,
    'sh',
    deb,
    join(folder, `config-${release}`),
  ]);
}
