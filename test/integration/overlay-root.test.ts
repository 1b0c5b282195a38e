/** A root folder on a file system that takes no overlays, as in a container whose own root is one. As root. */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { parseConfig } from '../../src/node/config/load.ts';
import { nodeFindings } from '../../src/node/doctor/node.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { tryOverlay } from '../../src/workers/shim/try-overlay.ts';
import { startSluice } from '../rig/daemon.ts';
import { imageRegistry } from '../rig/images.ts';
import { containerConfig, imageSpec, podConfig } from '../rig/messages.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';
import type { Registry } from '../rig/registry.ts';

const skip = skipUnlessRoot('runc', 'containerd-shim-runc-v2', 'docker-registry');
const BUSYBOX = 'docker.io/library/busybox:latest';
const REFUSED = /takes no overlay \(.*EINVAL|takes no overlay \(.*[Ii]nvalid argument/;

let folder: string;
let overlay: string;
let registry: Registry;
before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-overlay-root');
  const disk = join(folder, 'disk');
  mkdirSync(disk);
  mount({ source: 'sluice-test', target: disk, type: 'tmpfs' });
  const [lower, upper, work] = ['lower', 'upper', 'work'].map((name) => join(disk, name));
  overlay = join(folder, 'overlay');
  for (const one of [lower, upper, work, overlay]) if (one) mkdirSync(one);
  const data = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
  mount({ source: 'overlay', target: overlay, type: 'overlay', data });
  registry = await imageRegistry(folder);
});
after(async () => {
  await registry?.stop();
  if (!folder) return;
  unmount(overlay);
  unmount(join(folder, 'disk'));
  rmSync(folder, { recursive: true, force: true });
});

test('an overlay is tried where containers would have one, and nothing is left of it', { skip }, async () => {
  const [good, bad] = [join(folder, 'disk/good'), join(overlay, 'bad')];
  for (const root of [good, bad]) mkdirSync(root);
  assert.deepEqual(await tryOverlay({ root: good }), []);
  const [reason = '', ...more] = (await tryOverlay({ root: bad })) ?? [];
  assert.match(reason, REFUSED);
  assert.match(reason, /images\.snapshotter = "native" does without/);
  assert.deepEqual([more, readdirSync(good), readdirSync(bad)], [[], [], []]);
  await assert.rejects(tryOverlay({ root: '/proc/sys/nonesuch' }), { code: 'ENOENT' });
  const full = join(folder, 'full');
  mkdirSync(full);
  mount({ source: 'sluice-test', target: full, type: 'tmpfs', data: 'nr_inodes=3' });
  try {
    assert.equal(await tryOverlay({ root: full }), undefined, 'a full disk tells nothing');
    assert.deepEqual(readdirSync(full), []);
  } finally {
    unmount(full);
  }
});

test('with overlayfs the node is not ready and says why; with native its pods run', { skip }, async () => {
  const settings = (snapshotter: string) => ({
    root: join(overlay, 'root'),
    images: { snapshotter },
  });
  await using daemon = await startSluice({ registry, index: 28, config: settings('overlayfs') });
  const { cri, cgroupParent } = daemon;
  const ready = async () =>
    (await cri.status()).status?.conditions.find(({ type }) => type === 'RuntimeReady') ??
    assert.fail('there is no condition RuntimeReady');
  const condition = await waitFor('the reason', 10_000, async () => {
    const found = await ready();
    return found.status ? undefined : found;
  });
  assert.match(condition.message, REFUSED);
  // Lines come to the file a little later.
  await waitFor('its line in the log', 10_000, () => /the node cannot run pods/.test(daemon.log()) || undefined);
  assert.equal(await daemon.stop(), 0);

  daemon.configure(settings('native'));
  await daemon.start();
  await cri.pullImage({ image: imageSpec(BUSYBOX) });
  const config = podConfig('on-an-overlay', { cgroupParent });
  const { podSandboxId } = await cri.runPodSandbox({ config });
  const { containerId } = await cri.createContainer({
    podSandboxId,
    sandboxConfig: config,
    config: containerConfig('main', BUSYBOX, ['sleep', '3600']),
  });
  await cri.startContainer({ containerId });
  const { stdout } = await cri.execSync({ containerId, cmd: ['sh', '-c', 'echo x > /y && cat /y'], timeout: 20n });
  assert.equal(Buffer.from(stdout).toString(), 'x\n');
  assert.equal((await ready()).status, true);
  await cri.removePodSandbox({ podSandboxId });
  await daemon.assertNothingLeft();
});

test('the doctor asks for a disk that takes overlays only where they are needed', { skip }, async () => {
  const root = join(overlay, 'doctor');
  mkdirSync(root);
  const found = async (snapshotter: string) => {
    const text = `root = "${root}"\nstate = "${folder}/state"\n[images]\nsnapshotter = "${snapshotter}"\n`;
    const config = parseConfig(text, 'config.toml');
    const all = await nodeFindings(config, { exists: () => false } as never);
    return all.find(({ area, what }) => area === 'disk' && what.startsWith('root'))?.state;
  };
  assert.deepEqual([await found('overlayfs'), await found('native')], ['bad', 'good']);
});
