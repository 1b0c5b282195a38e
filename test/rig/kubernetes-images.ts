/**
 * Kubernetes from the Go module proxy (go/kubernetes, go/etcd), and a registry's storage with the images of a control
 * plane made of it. The programs take some 15 minutes of two cores to build, once. kube-proxy's and CoreDNS's images
 * are stand-ins that sleep: nothing here uses a Service.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { built, type ProgramName } from './build.ts';
import { writableImageRegistry } from './images.ts';
import { cacheFolder } from './paths.ts';
import { pushImage } from './push.ts';
import { Rootfs } from './rootfs.ts';

/** The kubelet alone, with a configuration; or a cluster of one node, as kubeadm makes it. */
export type Scenario = 'kubelet' | 'cluster';

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

export function scenarioOf(word: string | undefined): Scenario {
  if (word === 'kubelet' || word === 'cluster') return word;
  throw new Error(`what is "${word}"? kubelet or cluster`);
}

/** Builds what runs on the node; throws Unavailable where that is impossible. */
export async function buildKubernetes(scenario: Scenario): Promise<void> {
  for (const name of ['crictl', 'kubelet'] as const) await built(name);
  if (scenario === 'cluster') for (const name of ['kubeadm', 'kubectl'] as const) await built(name);
}

/** A registry's storage with the rig's images and, for a cluster, the control plane's. */
export async function kubernetesStorage(scenario: Scenario): Promise<string> {
  const folder = cacheFolder('kubernetes-images');
  rmSync(folder, { recursive: true });
  await using registry = await writableImageRegistry(cacheFolder('kubernetes-images'));
  if (scenario === 'cluster') {
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
  const storage = join(folder, 'registry');
  if (!existsSync(storage)) throw new Error(`no storage at ${storage}`);
  return storage;
}
