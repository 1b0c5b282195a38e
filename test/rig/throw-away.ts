/**
 * Runs a program in namespaces of its own (mounts, network, processes) on an overlay of this root, whose upper side is
 * memory: what it installs, starts and configures is gone with it.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmdirSync } from 'node:fs';
import { privateFolder, ROOT } from './paths.ts';
import { type Output, run } from './proc.ts';
import { tidyAtSignal } from './tidy.ts';

const SCRIPT = `set -eu
top=$1 root=$2 packages=$3 address=$4 program=$5; shift 5
mount --make-rprivate /
mount -t tmpfs throw-away "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
cd "$top/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs run run
mount -t tmpfs tmp tmp
# Snapshots are overlays themselves, whose upper folders may not be on one.
mount -t tmpfs lib "$top/upper"
cp -a /var/lib/dpkg "$top/upper/"
mkdir -p "$top/upper/apt/lists/partial"
mount --move "$top/upper" var/lib
mkdir -p ".$root" ".$top"
mount --bind "$root" ".$root"
mount -t tmpfs packages ".$top"
cp "$packages"/* ".$top/"
ip link set lo up
if [ "$address" != "" ]; then
  ip link add eth0 type veth peer name eth0-far
  ip address add "$address/24" dev eth0
  ip link set eth0-far up
  ip link set eth0 up
  ip route add default dev eth0
fi
# The root of the namespace, and not of this process alone: runc exec comes by setns(2), which leads to the former.
mkdir .before
pivot_root . .before
umount -l /.before
rmdir /.before
# No exec: this shell is the init of what is here, and waits for whatever has lost its parent.
"$program" --disable-warning=ExperimentalWarning "$@" "$top" || exit $?
`;

export interface ThrowAway {
  /** Of the rig, from the checkout's root. */
  script: string;
  /** What it gets before the path of the folder with the packages. */
  args?: readonly string[];
  /** A folder whose files are copied into it. */
  packages: string;
  /** Of a network with a default route, behind which nothing is; loopback alone when it is left out. */
  address?: string;
  timeoutMs?: number;
  /** Print what it prints at once, instead of keeping it. */
  aloud?: boolean;
}

/**
 * Runs a script there, with `args` and then the path of a folder that holds copies of the files in `packages`. Needs
 * root; without systemd.
 */
export async function inThrowAwayRoot({
  script,
  args = [],
  packages,
  address = '',
  timeoutMs = 400_000,
  aloud,
}: ThrowAway): Promise<Output> {
  const top = privateFolder('sluice-root');
  const unshare = ['--mount', '--net', '--pid', '--fork', '--kill-child', 'sh', '-c', SCRIPT, 'sh'];
  const program = [process.execPath, `${ROOT}/${script}`, ...args];
  const words = [...unshare, top, ROOT, packages, address, ...program];
  const env = { ...process.env, PATH: '/usr/sbin:/usr/bin:/sbin:/bin' };
  try {
    if (!aloud) return await run('unshare', words, { check: false, timeoutMs, env });
    const child = spawn('unshare', words, { stdio: ['ignore', 'inherit', 'inherit'], timeout: timeoutMs, env });
    const ended = once(child, 'exit');
    const untidy = tidyAtSignal(async () => {
      child.kill('SIGKILL'); // unshare's own child, the init of all that is there, goes with it
      await ended;
    });
    const [code] = (await ended) as [number | null];
    untidy();
    return { code: code ?? -1, stdout: '', stderr: '' };
  } finally {
    rmdirSync(top); // what was mounted there has gone with the namespace
  }
}
