/**
 * The guides about Kubernetes in the workplace's VM, with Kubernetes built from the Go module proxy
 * (test/rig/go/kubernetes): test/rig/kubernetes-scenario.ts.
 *
 *   node test/rig/vm/kubernetes.ts kubelet|cluster
 *
 * The programs take some 15 minutes to build, once. The images of the control plane are made of them; kube-proxy's and
 * CoreDNS's are stand-ins that sleep. The machine is emulated: no time in it means anything.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { makePackages } from '../../../scripts/release/package.ts';
import { built, type ProgramName } from '../build.ts';
import { writableImageRegistry } from '../images.ts';
import { cacheFolder, ROOT } from '../paths.ts';
import { run } from '../proc.ts';
import { pushImage } from '../push.ts';
import { Rootfs } from '../rootfs.ts';
import { haveVm, INSIDE, VM, vmArguments } from './machine.ts';

const LIMIT_SECONDS = 5400;
/** As kubeadm of this version names them. */
const VERSION = 'v1.36.2';
const IMAGES = {
  [`kube-apiserver:${VERSION}`]: 'kube-apiserver',
  [`kube-controller-manager:${VERSION}`]: 'kube-controller-manager',
  [`kube-scheduler:${VERSION}`]: 'kube-scheduler',
  'etcd:3.6.8-0': 'etcd',
} as const satisfies Record<string, ProgramName>;
const STAND_INS = [`kube-proxy:${VERSION}`, 'coredns/coredns:v1.14.2'];
const PATH_ENV = ['PATH=/usr/local/bin:/usr/bin:/bin'];

const [what = 'kubelet'] = process.argv.slice(2);
if (haveVm()) {
  const cluster = what === 'cluster';
  for (const name of ['crictl', 'kubelet'] as const) await built(name);
  if (cluster) for (const name of ['kubeadm', 'kubectl'] as const) await built(name);
  const storage = await storageWith(cluster);
  const made = await makePackages({ out: join(cacheFolder('packages'), 'kubernetes'), quick: true });
  if (cluster) await kernelConfig(dirname(made.deb));
  const inside = (path: string) => join(INSIDE, relative(ROOT, path));
  const node = ['node', '--disable-warning=ExperimentalWarning', 'test/rig/kubernetes-scenario.ts', what];
  const child = spawn(
    VM,
    [
      ...vmArguments({ seconds: LIMIT_SECONDS, memory: 6144 }),
      '--',
      ...node,
      inside(dirname(made.deb)),
      inside(storage),
    ],
    {
      stdio: ['ignore', 'inherit', 'inherit'],
    },
  );
  const [code] = (await once(child, 'exit')) as [number | null];
  process.exitCode = code ?? 1;
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

/** A registry's storage with the rig's images and, if asked for, the control plane's. */
async function storageWith(controlPlane: boolean): Promise<string> {
  const folder = cacheFolder('kubernetes-images');
  rmSync(folder, { recursive: true });
  await using registry = await writableImageRegistry(cacheFolder('kubernetes-images'));
  if (controlPlane) {
    const push = (reference: string, file: string, root: Rootfs) =>
      pushImage(registry.address, reference, { layers: [root.done()], config: { Env: PATH_ENV, Entrypoint: [file] } });
    for (const [reference, name] of Object.entries(IMAGES)) {
      const program = readFileSync(await built(name));
      await push(reference, name, new Rootfs().file(`usr/local/bin/${name}`, program, 0o755));
    }
    for (const reference of STAND_INS) {
      const [name = ''] = reference.split('/').at(-1)?.split(':') ?? [];
      const sleeps = new Rootfs().file('bin/busybox', readFileSync('/bin/busybox'), 0o755);
      for (const applet of ['sh', 'sleep']) sleeps.hardLink(`bin/${applet}`, 'bin/busybox');
      await push(reference, name, sleeps.file(`usr/local/bin/${name}`, '#!/bin/sh\nexec sleep 1000000\n', 0o755));
    }
  }
  return join(folder, 'registry');
}
