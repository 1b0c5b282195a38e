/**
 * Runs a program in namespaces of its own (mounts, network, processes) on an overlay of this root, whose upper side is
 * memory: what it installs, starts and configures is gone with it.
 */
import { rmdirSync } from 'node:fs';
import { privateFolder, ROOT } from './paths.ts';
import { type Output, run } from './proc.ts';

const SCRIPT = `set -eu
top=$1 root=$2 packages=$3 program=$4; shift 4
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
exec chroot . "$program" --disable-warning=ExperimentalWarning "$@" "$top"
`;

/**
 * Runs a script of the rig there, with `args` and then the path of a folder that holds copies of the files in
 * `packages`. Needs root; without systemd.
 */
export async function inThrowAwayRoot(script: string, packages: string, args: readonly string[] = []): Promise<Output> {
  const top = privateFolder('sluice-root');
  const unshare = ['--mount', '--net', '--pid', '--fork', '--kill-child', 'sh', '-c', SCRIPT, 'sh'];
  try {
    return await run('unshare', [...unshare, top, ROOT, packages, process.execPath, `${ROOT}/${script}`, ...args], {
      check: false,
      timeoutMs: 400_000,
      env: { ...process.env, PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    });
  } finally {
    rmdirSync(top); // what was mounted there has gone with the namespace
  }
}
