import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, suite, type TestContext, test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import { C } from '../../src/sys/libc.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { mountsBelow } from '../../src/sys/mountinfo.ts';
import { mountRootfs, unmountRootfs } from '../../src/workers/shim/rootfs.ts';
import { handlers } from '../../src/workers/shim.ts';
import { skipUnlessRoot } from '../rig/needs.ts';

const TMPFS_MAGIC = 0x01021994;

let dir: string;

suite('bundles, pod files, snapshots and mounts', { skip: skipUnlessRoot() }, () => {
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'slc-files-'));
  });
  afterEach(() => {
    const left = mountsBelow(dir);
    for (const point of left) unmount(point);
    rmSync(dir, { recursive: true });
    assert.deepEqual(left, []);
  });

  test('a pod’s files can be made twice and removed twice', async (t: TestContext) => {
    const input = {
      rootDir: join(dir, 'root', 'pod'),
      stateDir: join(dir, 'state', 'pod'),
      hostname: 'web-0',
      dns: { servers: ['10.96.0.10'], searches: ['default.svc'], options: ['ndots:5'] },
      hostIpc: false,
    };
    const began = performance.now();
    handlers.sandboxFiles(input);
    t.diagnostic(`${(performance.now() - began).toFixed(2)} ms`);
    handlers.sandboxFiles(input);
    const read = (name: string) => readFileSync(join(input.rootDir, name), 'utf8');
    assert.equal(read('hostname'), 'web-0\n');
    assert.equal(read('resolv.conf'), 'search default.svc\nnameserver 10.96.0.10\noptions ndots:5\n');
    if (existsSync('/etc/hosts')) assert.equal(read('hosts'), readFileSync('/etc/hosts', 'utf8'));
    for (const name of ['hostname', 'hosts', 'resolv.conf']) {
      assert.equal(statSync(join(input.rootDir, name)).mode & 0o777, 0o644);
    }
    const shm = join(input.stateDir, 'shm');
    assert.deepEqual(mountsBelow(input.stateDir), [shm], 'mounted once');
    const line =
      readFileSync('/proc/self/mountinfo', 'utf8')
        .split('\n')
        .find((row) => row.includes(shm)) ?? '';
    for (const option of ['nosuid', 'nodev', 'noexec', 'size=65536k']) assert.ok(line.includes(option), option);
    assert.equal(statSync(shm).mode & 0o7777, 0o1777);
    assert.equal(statfsSync(shm).type, TMPFS_MAGIC);
    writeFileSync(join(shm, 'data'), 'x');

    await handlers.removeSandboxFiles(input);
    assert.ok(!existsSync(input.rootDir) && !existsSync(input.stateDir));
    await handlers.removeSandboxFiles(input);
    assert.deepEqual(readdirSync(join(dir, 'state')), []);
  });

  test('without a DNS configuration the host’s is copied; with the host’s IPC there is no shm', async () => {
    const input = { rootDir: join(dir, 'r'), stateDir: join(dir, 's'), hostname: 'x', hostIpc: true };
    handlers.sandboxFiles(input);
    const host = existsSync('/etc/resolv.conf') ? readFileSync('/etc/resolv.conf', 'utf8') : '';
    assert.equal(readFileSync(join(input.rootDir, 'resolv.conf'), 'utf8'), host);
    assert.deepEqual(readdirSync(input.stateDir), []);
    await handlers.removeSandboxFiles(input);
  });

  test('an error about files that cannot be made names the folders', () => {
    writeFileSync(join(dir, 'file'), '');
    const input = { rootDir: join(dir, 'file', 'r'), stateDir: join(dir, 's'), hostname: 'x', hostIpc: true };
    assert.throws(
      () => handlers.sandboxFiles(input),
      (error) => error instanceof SluiceError && error.code === 'NAMESPACE_FAILED' && error.message.includes('file/r'),
    );
  });

  test('a bundle is removed with its mounts, but not what is mounted in it', async () => {
    const bundle = join(dir, 'b', 'pod');
    const stateDir = join(dir, 'w', 'pod');
    const precious = join(dir, 'precious');
    mkdirSync(join(precious, 'deep'), { recursive: true });
    writeFileSync(join(precious, 'deep', 'data'), 'keep me');
    handlers.writeBundle({ bundle, stateDir, spec: '{}', sandbox: 'p', shim: { address: '/run/x', version: 2 } });
    assert.deepEqual(readdirSync(bundle).toSorted(), ['bootstrap.json', 'config.json', 'rootfs', 'sandbox', 'work']);
    writeFileSync(join(bundle, 'work', 'dump.log'), '');
    writeFileSync(join(stateDir, 'stdout'), '');
    symlinkSync(precious, join(bundle, 's'));
    // Mounted twice on the rootfs, as after a repeated start, and once at an unexpected place.
    const rootfs = join(bundle, 'rootfs');
    mount({ source: precious, target: rootfs, flags: C.MS_BIND });
    mount({ source: precious, target: rootfs, flags: C.MS_BIND });
    const unknown = join(bundle, 'un known');
    mkdirSync(unknown);
    mount({ source: precious, target: unknown, flags: C.MS_BIND });
    await handlers.removeBundle({ bundle, stateDir });
    assert.equal(readFileSync(join(precious, 'deep', 'data'), 'utf8'), 'keep me');
    assert.deepEqual([readdirSync(join(dir, 'b')), readdirSync(join(dir, 'w'))], [[], []]);
    await handlers.removeBundle({ bundle, stateDir });
    await handlers.removeBundle({ bundle: join(dir, 'never', 'was') });
  });

  test('a container’s own folder is removed with its volumes, but not an image that is mounted there', async () => {
    const path = join(dir, 'containers', 'c');
    const image = join(dir, 'image-to-copy');
    mkdirSync(join(image, 'data'), { recursive: true });
    writeFileSync(join(image, 'data', 'file'), 'of the image');
    for (const below of ['copy-up', 'volumes/0/deep', 'work']) mkdirSync(join(path, below), { recursive: true });
    writeFileSync(join(path, 'volumes', '0', 'deep', 'file'), '');
    mount({ source: image, target: join(path, 'copy-up'), flags: C.MS_BIND });
    const call = { path, mountPoints: ['copy-up'] };
    await handlers.removeFolder(call);
    assert.deepEqual(readdirSync(join(dir, 'containers')), []);
    assert.equal(readFileSync(join(image, 'data', 'file'), 'utf8'), 'of the image');
    await handlers.removeFolder(call);
  });

  test('an interrupted removal is finished by the next', async () => {
    const bundle = join(dir, 'pod');
    const hidden = join(dir, '.pod');
    for (const path of [bundle, hidden]) {
      mkdirSync(join(path, 'rootfs'), { recursive: true });
      writeFileSync(join(path, 'config.json'), '');
    }
    await handlers.removeBundle({ bundle });
    assert.deepEqual(readdirSync(dir), []);
    mkdirSync(join(hidden, 'full', 'of', 'folders'), { recursive: true });
    await handlers.removeBundle({ bundle });
    assert.deepEqual(readdirSync(dir), []);
  });

  test('snapshots are removed with what containers left in them', async () => {
    const snapshot = join(dir, 'snapshots', '1');
    const owner = { uid: 100_000, gid: 100_001 };
    handlers.prepareSnapshot({ dir: snapshot, owner });
    handlers.prepareSnapshot({ dir: snapshot, owner });
    assert.deepEqual(readdirSync(snapshot).toSorted(), ['fs', 'work']);
    const { mode, uid, gid } = statSync(join(snapshot, 'fs'));
    assert.deepEqual([mode & 0o777, uid, gid], [0o755, 100_000, 100_001]);
    assert.equal(statSync(snapshot).mode & 0o777, 0o700);
    mkdirSync(join(snapshot, 'work', 'work'), { mode: 0 });
    for (let i = 0; i < 50; i++) mkdirSync(join(snapshot, 'fs', String(i), 'a'), { recursive: true });
    execFileSync('mknod', [join(snapshot, 'fs', 'whiteout'), 'c', '0', '0']);
    symlinkSync('/etc', join(snapshot, 'fs', 'etc'));
    await handlers.removeSnapshot({ dir: snapshot });
    assert.deepEqual(readdirSync(join(dir, 'snapshots')), []);
    assert.ok(existsSync('/etc/passwd'));
    await handlers.removeSnapshot({ dir: snapshot });
  });

  test('overlay and bind mounts, read-only and in a folder of the target', () => {
    const target = join(dir, 'm');
    const layers = ['top', 'bottom'].map((name) => join(dir, name));
    for (const [i, layer] of layers.entries()) {
      mkdirSync(join(layer, 'sub'), { recursive: true });
      writeFileSync(join(layer, 'both'), String(i));
    }
    mkdirSync(target);
    const snapshot = join(dir, 'snap');
    handlers.prepareSnapshot({ dir: snapshot });
    const options = [`lowerdir=${layers.join(':')}`, `upperdir=${snapshot}/fs`, `workdir=${snapshot}/work`];
    mountRootfs({
      target,
      mounts: [
        { type: 'overlay', source: 'overlay', options },
        { type: 'bind', source: layers[1] ?? '', target: 'sub', options: ['rbind', 'ro', 'nosuid'] },
      ],
    });
    assert.equal(readFileSync(join(target, 'both'), 'utf8'), '0');
    assert.equal(readFileSync(join(target, 'sub', 'both'), 'utf8'), '1');
    assert.throws(() => writeFileSync(join(target, 'sub', 'both'), 'x'), { code: 'EROFS' });
    writeFileSync(join(target, 'both'), 'changed');
    assert.equal(readFileSync(join(snapshot, 'fs', 'both'), 'utf8'), 'changed');
    unmountRootfs({ target });
    assert.deepEqual(mountsBelow(dir), []);
    unmountRootfs({ target });
    unmountRootfs({ target: join(dir, 'nothing') });
  });

  test('a mount that fails detaches the ones before it', () => {
    const target = join(dir, 'm');
    mkdirSync(target);
    const fails = (mounts: Parameters<typeof mountRootfs>[0]['mounts'], words: RegExp) => {
      assert.throws(
        () => mountRootfs({ target, mounts }),
        (error) =>
          error instanceof SluiceError &&
          error.code === 'NAMESPACE_FAILED' &&
          words.test(`${error.message} ${(error.cause as Error).message}`),
      );
      assert.deepEqual(mountsBelow(dir), []);
    };
    const good = { type: 'bind', source: dir, options: [] };
    fails([good, { type: 'bind', source: '/no/such', options: [] }], /no such file/);
    fails([good, { type: 'bind', source: dir, target: 'missing', options: [] }], /no such file/);
    fails([{ type: 'bind', source: dir, options: ['ro', 'uidmap=0:1:2'] }], /does not take the options uidmap/);
    fails([{ type: 'nofs', source: 'x', options: [] }], /no such device/);
  });

  test('an overlay of 128 layers with names that fill many pages', () => {
    const target = join(dir, 'm');
    mkdirSync(target);
    const layers = Array.from({ length: 128 }, (_, i) => join(dir, 'layers', String(i).padStart(100, 'x'), 'a:b'));
    for (const [i, layer] of layers.entries()) {
      mkdirSync(layer, { recursive: true });
      writeFileSync(join(layer, `file-${i}`), '');
      writeFileSync(join(layer, 'top'), String(i));
    }
    const snapshot = join(dir, 'snap');
    handlers.prepareSnapshot({ dir: snapshot });
    const lowerdir = layers.map((layer) => layer.replaceAll(':', '\\:')).join(':');
    const options = ['index=off', `lowerdir=${lowerdir}`, `upperdir=${snapshot}/fs`, `workdir=${snapshot}/work`];
    const before = readdirSync('/proc/self/fd').length;
    mountRootfs({ target, mounts: [{ type: 'overlay', source: 'overlay', options }] });
    assert.equal(readdirSync('/proc/self/fd').length, before);
    assert.equal(readdirSync(target).length, 129);
    assert.equal(readFileSync(join(target, 'top'), 'utf8'), '0');
    writeFileSync(join(target, 'new'), 'x');
    assert.ok(existsSync(join(snapshot, 'fs', 'new')));
    unmountRootfs({ target });
    const tooMany = Array.from({ length: 300 }, () => layers[0] ?? '')
      .join(':')
      .replaceAll('a:b', 'a\\:b');
    assert.throws(
      () =>
        mountRootfs({
          target,
          mounts: [{ type: 'overlay', source: 'overlay', options: [`lowerdir=${tooMany}`] }],
        }),
      (error) => error instanceof SluiceError && /300 layers are more/.test((error.cause as Error).message),
    );
    assert.equal(readdirSync('/proc/self/fd').length, before);
  });

  test('the lowest OOM score is -1000 with the capability and the process’s own without it', () => {
    const file = new URL('../../src/node/oci/oom-score.ts', import.meta.url).href;
    const program = `
      const { lowestOomScore } = await import('${file}');
      const { readFileSync, writeFileSync } = await import('node:fs');
      writeFileSync('/proc/self/oom_score_adj', '300');
      console.log(lowestOomScore(), readFileSync('/proc/self/oom_score_adj', 'utf8').trim());`;
    const node = [process.execPath, '--input-type=module', '-e', program];
    const run = (...command: string[]) =>
      execFileSync(command[0] ?? '', command.slice(1), {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'inherit'],
      }).trim();
    // Root in a container may not lower it either; the shell finds out which case this is.
    const free = run('sh', '-c', 'echo -1000 2>/dev/null >/proc/self/oom_score_adj && echo yes || echo no') === 'yes';
    assert.equal(run(...node), free ? '-1000 300' : '300 300');
    assert.equal(run('setpriv', '--bounding-set', '-sys_resource', '--inh-caps', '-sys_resource', ...node), '300 300');
    // In a user namespace of its own the process has the capability's bit in CapEff, and the kernel refuses.
    assert.equal(run('unshare', '--user', '--map-root-user', ...node), '300 300');
  });
});
