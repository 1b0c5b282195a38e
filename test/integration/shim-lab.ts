/**
 * Runs real shims: temporary folders, a busybox rootfs, specs for cgroup v1 and v2, and a check that nothing is left.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CreateTask } from '../../src/node/shims/task.ts';
import { unmount } from '../../src/sys/mount.ts';
import { mountsBelow } from '../../src/sys/mountinfo.ts';
import { killLeftovers, listProcesses, type Process } from '../../src/workers/shim/processes.ts';
import { handlers } from '../../src/workers/shim.ts';
import { cgroupsOf, removeCgroupTree } from '../rig/leftovers.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { findProgram } from '../rig/paths.ts';

export const NAMESPACE = 'k8s.io';

/** The distribution's shim and, where SLUICE_TEST_SHIM names one, another generation. */
export const shims = [...new Set([findProgram('containerd-shim-runc-v2'), process.env.SLUICE_TEST_SHIM])].filter(
  (path): path is string => path !== undefined && path !== '',
);

export const SKIP = skipUnlessRoot('containerd-shim-runc-v2', 'runc', 'busybox');

export interface Pod {
  id: string;
  bundle: string;
  /** Of a container that joins a pod's shim. */
  stateDir: string;
  snapshot: string;
}

export class Lab {
  readonly dir = mkdtempSync(join(tmpdir(), 'slc-'));
  readonly image = join(this.dir, 'image');
  readonly socketDir = join(this.dir, 's');
  readonly events = join(this.dir, 'events.sock');
  readonly runtimeRoot = join(this.dir, 'runc');
  readonly addresses = { grpc: join(this.dir, 'grpc.sock'), ttrpc: this.events, publishBinary: '/bin/true' };
  readonly cgroup = `/sluice-test-${randomBytes(6).toString('hex')}`;
  readonly pods: Pod[] = [];

  constructor() {
    mkdirSync(this.socketDir);
    for (const name of ['bin', 'proc', 'dev', 'tmp']) mkdirSync(join(this.image, name), { recursive: true });
    copyFileSync(findProgram('busybox') ?? '', join(this.image, 'bin', 'busybox'));
    for (const name of ['sh', 'sleep', 'cat', 'echo', 'tail', 'true'])
      symlinkSync('busybox', join(this.image, 'bin', name));
  }

  pod(id = randomBytes(32).toString('hex')): Pod {
    const pod = {
      id,
      bundle: join(this.dir, 'bundles', id),
      stateDir: join(this.dir, 'state', id),
      snapshot: join(this.dir, 'snapshots', id.slice(0, 12)),
    };
    this.pods.push(pod);
    return pod;
  }

  /**
   * Path of the runtime's program. crun fails on a hybrid cgroup set-up with a controller in the v2 hierarchy; there it
   * runs in a mount namespace without that hierarchy.
   */
  runtime(name: string): string {
    const controllers = '/sys/fs/cgroup/unified/cgroup.controllers';
    const hybrid = existsSync(controllers) && readFileSync(controllers, 'utf8').trim() !== '';
    if (name !== 'crun' || !hybrid) return name;
    const path = join(this.dir, 'crun');
    // crun makes folders there all the same, which would stay: they go with the tmpfs.
    const unified = '/sys/fs/cgroup/unified';
    const inner = `umount -l ${unified} && mount -t tmpfs lab ${unified} && exec ${findProgram('crun')} "$@"`;
    writeFileSync(path, `#!/bin/sh\nexec unshare --mount sh -c '${inner}' crun "$@"\n`, { mode: 0o755 });
    return path;
  }

  spec(pod: Pod, args: string[], { sandbox = pod.id, memory }: { sandbox?: string; memory?: number } = {}): string {
    return JSON.stringify({
      ociVersion: '1.0.2',
      process: {
        terminal: false,
        user: { uid: 0, gid: 0 },
        args,
        env: ['PATH=/bin'],
        cwd: '/',
        capabilities: { bounding: [], effective: [], permitted: [] },
        noNewPrivileges: true,
        oomScoreAdj: 500,
      },
      root: { path: 'rootfs', readonly: false },
      hostname: 'lab',
      mounts: [
        { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
        { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755', 'size=65536k'] },
      ],
      linux: {
        cgroupsPath: `${this.cgroup}/${pod.id}`,
        namespaces: ['pid', 'ipc', 'uts', 'mount', 'network'].map((type) => ({ type })),
        resources: {
          devices: [{ allow: false, access: 'rwm' }],
          memory: memory === undefined ? undefined : { limit: memory, swap: memory },
        },
      },
      annotations: { 'io.kubernetes.cri.sandbox-id': sandbox },
    });
  }

  start(
    pod: Pod,
    binary: string,
    args = ['sleep', '1000'],
    more: Partial<Parameters<typeof handlers.startShim>[0]> = {},
  ) {
    return handlers.startShim({
      ...pod,
      namespace: NAMESPACE,
      binary,
      spec: this.spec(pod, args),
      addresses: this.addresses,
      socketDir: this.socketDir,
      timeoutMs: 20_000,
      ...more,
    });
  }

  create(pod: Pod, runtime = 'runc', more: Partial<CreateTask> = {}): CreateTask {
    handlers.prepareSnapshot({ dir: pod.snapshot });
    const options = [`lowerdir=${this.image}`, `upperdir=${pod.snapshot}/fs`, `workdir=${pod.snapshot}/work`];
    return {
      id: pod.id,
      bundle: pod.bundle,
      rootfs: [{ type: 'overlay', source: 'overlay', target: '', options }],
      runtime: { binary: runtime, root: this.runtimeRoot, systemdCgroup: false },
      ...more,
    };
  }

  cleanup(pod: Pod, binary: string, address?: string, runtime = 'runc') {
    return handlers.cleanupShim({
      ...pod,
      binary,
      address,
      namespace: NAMESPACE,
      addresses: this.addresses,
      runtime: { binary: runtime, root: this.runtimeRoot },
    });
  }

  async remove(pod: Pod): Promise<void> {
    await handlers.removeBundle(pod);
    await handlers.removeSnapshot({ dir: pod.snapshot });
    this.pods.splice(this.pods.indexOf(pod), 1);
  }

  /** All processes with the pod's id in their command line. */
  async processes(pod: Pod): Promise<Process[]> {
    return (await listProcesses()).filter(({ argv }) => argv.some((arg) => arg.includes(pod.id)));
  }

  /** Cleans up, and returns what a test has left behind. */
  async end(): Promise<void> {
    const left: string[] = [];
    for (const pod of this.pods) {
      for (const pid of await killLeftovers(pod)) left.push(`process ${pid} of pod ${pod.id}`);
      const [shim] = shims;
      if (shim) await this.cleanup(pod, shim).catch((error) => left.push(String(error)));
    }
    for (const point of mountsBelow(this.dir)) {
      left.push(`mount ${point}`);
      unmount(point);
    }
    // Each is tried: what stays in one hierarchy must not keep the rest.
    for (const folder of cgroupsOf(this.cgroup)) {
      try {
        removeCgroupTree(folder);
      } catch (error) {
        left.push(`cgroup ${folder}: ${error}`);
      }
    }
    if (existsSync(this.socketDir)) left.push(...readdirSync(this.socketDir).map((name) => `socket ${name}`));
    rmSync(this.dir, { recursive: true, force: true });
    assert.deepEqual(left, []);
  }
}

/** Polls a condition; fails after five seconds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 250; tries++) {
    if (await holds()) return;
    await sleep(20);
  }
  assert.fail(`did not come: ${what}`);
}
