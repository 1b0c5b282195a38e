import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readDevices } from '../../src/workers/host-paths/devices.ts';
import { HostMounts } from '../../src/workers/host-paths/host-mounts.ts';
import { readHostFile, readHostFolder } from '../../src/workers/host-paths/read-file.ts';
import { resolve } from '../../src/workers/host-paths/resolve.ts';
import { hostPathHandlers } from '../../src/workers/host-paths.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'sluice-paths-')));
after(() => rmSync(folder, { recursive: true }));
const at = (...names: string[]) => join(folder, ...names);

mkdirSync(at('a/b'), { recursive: true });
writeFileSync(at('a/file'), 'words');
symlinkSync('b', at('a/relative'));
symlinkSync(at('a/relative'), at('absolute'));
symlinkSync('loop', at('loop'));
symlinkSync('nowhere/at/all', at('dangling'));
symlinkSync('../..', at('a/b/up'));
mkdirSync(at('nfs'));
symlinkSync(at('nfs/share'), at('a/to-nfs'));

/** A mount table with a root of the given type and an NFS mount on `nfs`. */
const table = (root = 'ext4') =>
  new HostMounts(
    [
      `1 0 8:1 / / rw shared:1 - ${root} /dev/sda1 rw`,
      `2 1 0:40 / ${at('nfs')} rw - nfs4 server:/share rw`,
      '3 1 0:41 / /with\\040space rw - cifs //server/share rw',
    ].join('\n'),
  );

test('mounts are found from the path upwards, with octal escapes, the topmost of two', () => {
  const mounts = table();
  assert.equal(mounts.of(at('a/b'))?.type, 'ext4');
  assert.equal(mounts.remote(at('a/b')), undefined);
  assert.equal(mounts.remote(at('nfs'))?.type, 'nfs4');
  assert.equal(mounts.remote(at('nfs/deep/in'))?.mountPoint, at('nfs'));
  assert.equal(mounts.remote('/with space/x')?.type, 'cifs');
  assert.equal(mounts.remote('/without'), undefined);
  const twice = new HostMounts('1 0 8:1 / / rw - nfs a rw\n2 1 8:2 / / rw - xfs b rw\n');
  assert.equal(twice.of('/x')?.type, 'xfs');
});

test('the machine’s own mount table: every mount point is found as itself', () => {
  const mounts = new HostMounts();
  assert.ok(mounts.of('/proc/self'));
  assert.equal(mounts.of('/proc/1')?.type, 'proc');
});

for (const path of ['a/b', 'a/relative', 'absolute', 'absolute/up/a/file', 'a/../a/./file', 'a//b/']) {
  test(`resolves ${path} as realpath(3) does`, () =>
    assert.deepEqual(resolve(`${folder}/${path}`, table()), { kind: 'real', path: realpathSync(`${folder}/${path}`) }));
}

test('the root itself', () => assert.deepEqual(resolve('/', table()), { kind: 'real', path: '/' }));

for (const [path, code] of [
  ['loop', 'ELOOP'],
  ['dangling', 'ENOENT'],
  ['dangling/below', 'ENOENT'],
  ['a/file/below', 'ENOTDIR'],
  ['missing/../a', 'ENOENT'],
] as const) {
  test(`refuses ${path} with ${code}`, () => assert.throws(() => resolve(`${folder}/${path}`, table()), { code }));
}

test('a path on a remote mount is not touched, also behind a link', () => {
  for (const [path, rest] of [
    ['nfs', ''],
    ['nfs/x/y', '/x/y'],
    ['a/to-nfs', '/share'],
    ['a/to-nfs/../x', '/share/../x'],
  ] as const) {
    const place = resolve(`${folder}/${path}`, table());
    assert.ok(place.kind === 'remote', path);
    // "share" and "x" do not exist: lstat would have shown it.
    assert.ok(place.path.endsWith(`/nfs${rest}`), place.path);
  }
});

test('where the root is on a remote file system nothing is touched', () => {
  const place = resolve(at('a'), table('virtiofs'));
  assert.ok(place.kind === 'remote');
  assert.equal(place.path, at('a'));
});

test('a missing folder is made, 0755 whatever the umask, and resolved', async () => {
  const before = process.umask(0o077);
  try {
    const path = at('a/relative/new/deep');
    const { real, mounts } = await hostPathHandlers.resolveHostPaths({ paths: [path], refuse: [] });
    assert.deepEqual(real, { [path]: at('a/b/new/deep') });
    for (const made of ['new', 'new/deep']) assert.equal(statSync(at('a/b', made)).mode & 0o777, 0o755);
    assert.equal(mounts.length, 1);
    assert.ok(at('a').startsWith(mounts[0]?.mountPoint ?? 'none'));
  } finally {
    process.umask(before);
  }
});

test('a missing path that is refused, or below such a one, is not made', async () => {
  const refuse = [at('a')];
  for (const path of [at('a/refused'), at('a/b/refused/deep')]) {
    await assert.rejects(hostPathHandlers.resolveHostPaths({ paths: [path], refuse }), {
      code: 'INVALID_REQUEST',
      message: /cannot be mounted/,
    });
    assert.ok(!existsSync(path));
  }
  const { real } = await hostPathHandlers.resolveHostPaths({ paths: [at('a/b')], refuse });
  assert.deepEqual(real, { [at('a/b')]: at('a/b') }, 'one that exists is mounted');
});

test('a link to nothing, and a path below a file, fail and make nothing', async () => {
  const before = readdirSync(folder);
  for (const path of [at('dangling'), at('a/file/x')]) {
    await assert.rejects(hostPathHandlers.resolveHostPaths({ paths: [path], refuse: [] }), { code: 'INVALID_REQUEST' });
  }
  assert.deepEqual(readdirSync(folder), before);
});

test('the beginning of a file; no FIFO is waited for', async () => {
  assert.equal(await readHostFile(at('a/file'), 100), 'words');
  assert.equal(await readHostFile(at('a/file'), 3), 'wor');
  await assert.rejects(readHostFile(at('a/none'), 3), { code: 'ENOENT' });
  execFileSync('mkfifo', [at('a/fifo')]);
  await assert.rejects(readHostFile(at('a/fifo'), 3), /not a regular file/);
  assert.deepEqual(await readHostFolder(at('a'), /^file$/, 2), [{ path: at('a/file'), text: 'wo' }]);
  assert.deepEqual(await readHostFolder(at('none'), /./, 2), []);
});

test('devices: one, a folder of them, also on a mount that may hang', async () => {
  assert.deepEqual(
    (await readDevices('/dev/null', '/dev/mine')).map(({ path, type, major, minor }) => ({ path, type, major, minor })),
    [{ path: '/dev/mine', type: 'c', major: 1, minor: 3 }],
  );
  assert.ok((await readDevices('/dev', '/x')).some(({ path }) => path === '/x/null'));
  assert.deepEqual(await readDevices(at('a/file'), '/x'), []);
  await assert.rejects(readDevices(at('missing'), '/x'), { code: 'ENOENT' });
  // Short-lived processes find the same where /dev is called remote.
  const remote = new HostMounts('1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:40 / /dev rw - nfs4 server:/dev rw\n');
  assert.deepEqual(await readDevices('/dev/null', '/x', remote), await readDevices('/dev/null', '/x'));
  const sorted = (devices: { path: string }[]) => devices.map((one) => JSON.stringify(one, keys)).sort();
  const keys = ['path', 'type', 'major', 'minor', 'fileMode', 'uid', 'gid'];
  const local = sorted(await readDevices('/dev', '/x'));
  assert.ok(local.length > 3);
  assert.deepEqual(sorted(await readDevices('/dev', '/x', remote)), local);
  assert.deepEqual(await readDevices(at('nfs'), '/x', table()), []);
  await assert.rejects(readDevices(at('nfs/null'), '/x', table()), /No such file.*nfs4 mount/);
});
