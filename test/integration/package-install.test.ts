/**
 * The Debian package installed, used, upgraded with a running pod, removed and purged, and the guides done word for
 * word: here in a throw-away copy of the root file system, without systemd. `node test/rig/vm/package.ts` does the same
 * in a VM, with systemd.
 */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { built } from '../rig/build.ts';
import { imageRegistry } from '../rig/images.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { nextDeb, sharedPackages } from '../rig/packages.ts';
import { privateFolder, SYSTEMD } from '../rig/paths.ts';
import { inThrowAwayRoot } from '../rig/throw-away.ts';

const skip = SYSTEMD
  ? 'this machine runs systemd, which is not in the throw-away root: node test/rig/vm/package.ts'
  : skipUnlessRoot(
      'apt',
      'dpkg',
      'dpkg-deb',
      'openssl',
      'rpmbuild',
      'strip',
      'runc',
      'containerd-shim-runc-v2',
      'docker-registry',
      'unshare',
    );

describe('the Debian package', { skip }, () => {
  let folder: string;
  let packages: string;
  /** The .deb of this version, and of the one to which it is upgraded. */
  let names: string[];
  before(async () => {
    folder = privateFolder('sluice-install');
    packages = join(folder, 'older');
    await (await imageRegistry(folder)).stop(); // fills the cache, out here
    await built('crictl');
    const made = await sharedPackages();
    const newer = await nextDeb();
    mkdirSync(packages);
    for (const file of [...Object.values(made), newer]) cpSync(file, join(packages, basename(file)));
    names = [basename(made.deb), basename(newer)];
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test('is installed, started, used, upgraded with a running pod, removed and purged', async () => {
    const { code, stdout, stderr } = await inThrowAwayRoot({
      script: 'test/rig/package-scenario.ts',
      packages,
      args: names,
    });
    console.log(stdout.trimEnd());
    assert.equal(code, 0, stderr);
    assert.match(stdout, /seen: purged: nothing is left/);
  });

  test('every command of the guides does what its page says', async () => {
    const { code, stdout, stderr } = await inThrowAwayRoot({ script: 'test/rig/guide-scenario.ts', packages });
    console.log(stdout.trimEnd());
    assert.equal(code, 0, stderr);
    assert.match(stdout, /seen: all \d+ blocks of commands were run/);
  });
});
