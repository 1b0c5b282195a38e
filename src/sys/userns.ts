/**
 * Makes a user namespace and a network namespace that it owns, and pins both. A process with several threads cannot
 * unshare a user namespace (unshare(2): EINVAL), so a small helper process makes the pair; it is killed once both are
 * bind-mounted.
 */
import { closeSync, mkdirSync, openSync, readlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { C, libc } from './libc.ts';
import { setLink } from './link.ts';
import { mount } from './mount.ts';
import { inNetns, unpinNamespace } from './netns.ts';
import { SIGKILL } from './signals.ts';
import { run, type SpawnResult } from './spawn.ts';

/** One line of uid_map or gid_map. */
export interface IdMapping {
  containerID: number;
  hostID: number;
  size: number;
}

export interface UserNamespace {
  /** Path at which it is pinned; must not exist. */
  path: string;
  uids: readonly IdMapping[];
  gids: readonly IdMapping[];
}

const LIMIT_MS = 20_000;
const PATHS = '/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin';

/**
 * Pins a user namespace at `userns.path` and a network namespace that it owns at `path`. Takes about 5 ms. Throws the
 * error of the kernel or of the helper, and leaves nothing behind then. unpinNamespace removes either of them.
 */
export async function createUserNetns(
  path: string,
  userns: UserNamespace,
  { loopback }: { loopback: boolean },
): Promise<void> {
  using undo = new DisposableStack();
  for (const each of [path, userns.path]) {
    mkdirSync(dirname(each), { recursive: true, mode: 0o755 });
    closeSync(openSync(each, 'wx', 0o444));
    undo.defer(() => unpinNamespace(each));
  }
  await whileUnshared(({ pid }) => {
    writeFileSync(`/proc/${pid}/uid_map`, mapText(userns.uids));
    writeFileSync(`/proc/${pid}/gid_map`, mapText(userns.gids));
    mount({ source: `/proc/${pid}/ns/user`, target: userns.path, flags: C.MS_BIND });
    mount({ source: `/proc/${pid}/ns/net`, target: path, flags: C.MS_BIND });
  });
  if (loopback) inNetns(path, () => setLink('lo', true));
  undo.move();
}

/** Runs `work` while a helper process is in a new user namespace and a new network namespace. */
async function whileUnshared(work: (held: { pid: number }) => void): Promise<void> {
  let pid = 0;
  let ended: SpawnResult | undefined;
  // util-linux is on every node, since mount and nsenter belong to it. `env` finds it in PATH and execs it.
  const argv = ['env', 'unshare', '--user', '--net', '--', 'sleep', String(LIMIT_MS / 1000)];
  const onStart = (started: number) => {
    pid = started;
  };
  const process = run({ path: '/usr/bin/env', argv, env: { PATH: PATHS }, timeoutMs: LIMIT_MS, onStart }).then(
    (result) => {
      ended = result;
    },
  );
  try {
    // unshare(2) switches the network namespace before the user namespace: once the latter differs from ours, both are
    // new.
    while (!ended && !isUnshared(pid)) await Promise.race([sleep(1), process]);
    if (ended) throw new Error(`unshare ended: ${ended.stderr.toString().trim() || `status ${ended.code}`}`);
    work({ pid });
  } finally {
    if (pid !== 0 && !ended) libc.kill(-pid, SIGKILL);
    await process;
  }
}

/** Is the process in a user namespace other than ours? False for one that has ended, whose exit the caller sees. */
function isUnshared(pid: number): boolean {
  try {
    return pid !== 0 && readlinkSync(`/proc/${pid}/ns/user`) !== readlinkSync('/proc/self/ns/user');
  } catch {
    return false;
  }
}

function mapText(mappings: readonly IdMapping[]): string {
  return mappings.map(({ containerID, hostID, size }) => `${containerID} ${hostID} ${size}\n`).join('');
}
