/**
 * The Debian package installed, used, upgraded with a running pod, removed and purged: here in a throw-away copy of the
 * root file system, without systemd. `node test/rig/vm/package.ts` does the same in a VM, with systemd.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { makePackages } from '../../scripts/release/package.ts';
import { VERSION } from '../../src/version.ts';
import { imageRegistry } from '../rig/images.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder, ROOT, SYSTEMD } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';

const skip = SYSTEMD
  ? 'this machine runs systemd, which is not in the throw-away root: node test/rig/vm/package.ts'
  : skipUnlessRoot(
      'dpkg',
      'dpkg-deb',
      'rpmbuild',
      'strip',
      'runc',
      'containerd-shim-runc-v2',
      'docker-registry',
      'unshare',
    );

/**
 * Runs a program in namespaces of its own (mounts, network, processes) on an overlay of this root, whose upper side is
 * memory: what it installs, starts and configures is gone with it.
 */
const THROW_AWAY = `set -eu
top=$1 root=$2; shift 2
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
mount --move "$top/upper" var/lib
mkdir -p ".$root" ".$top"
mount --bind "$root" ".$root"
mount -t tmpfs packages ".$top"
cp "$1" "$2" ".$top/"
ip link set lo up
exec chroot . "$3" --disable-warning=ExperimentalWarning "$root/test/rig/package-scenario.ts" "$top/\${1##*/}" "$top/\${2##*/}"
`;

describe('the Debian package', { skip }, () => {
  let folder: string;
  before(async () => {
    folder = privateFolder('sluice-install');
    await (await imageRegistry(folder)).stop(); // fills the cache, out here
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test('is installed, started, used, upgraded with a running pod, removed and purged', async () => {
    const next = VERSION.replace(/\d+$/, (patch) => String(Number(patch) + 1));
    const older = await makePackages({ out: join(folder, 'older'), quick: true });
    const newer = await makePackages({ out: join(folder, 'newer'), version: next, quick: true });
    const top = privateFolder('sluice-root');
    const unshare = ['--mount', '--net', '--pid', '--fork', '--kill-child', 'sh', '-c', THROW_AWAY, 'sh'];
    const { code, stdout, stderr } = await run(
      'unshare',
      [...unshare, top, ROOT, older.deb, newer.deb, process.execPath],
      {
        check: false,
        timeoutMs: 240_000,
        env: { ...process.env, PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      },
    );
    console.log(stdout.trimEnd());
    assert.equal(code, 0, stderr);
    assert.match(stdout, /seen: purged: nothing is left/);
  });
});
