/** Pulls from Debian's docker-registry through a daemon's socket. */
import assert from 'node:assert/strict';
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { GRPC } from '../../src/errors.ts';
import { type SluiceDaemon, startSluice } from '../rig/daemon.ts';
import { imageSpec } from '../rig/messages.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { run, waitFor } from '../rig/proc.ts';
import { architecture, pushImage, pushIndex } from '../rig/push.ts';
import { type Registry, startRegistry } from '../rig/registry.ts';
import { Rootfs } from '../rig/rootfs.ts';
import { tarball } from '../rig/tarball.ts';

const skip = skipUnlessRoot('docker-registry', 'runc', 'containerd-shim-runc-v2');
const PAUSE = 'sluice.local/pause:1';
let folder: string;
let registry: Registry;
let daemon: SluiceDaemon;

before(async () => {
  if (skip) return;
  folder = privateFolder('sluice-images');
  registry = await startRegistry({ folder });
  daemon = await startSluice({ registry, index: 21 });
});
after(async () => {
  await daemon?.[Symbol.asyncDispose]();
  await registry?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

const pull = async (image: string) => (await daemon.cri.pullImage({ image: imageSpec(image) })).imageRef;
const status = async (image: string) => (await daemon.cri.imageStatus({ image: imageSpec(image) })).image;
const remove = (image: string) => daemon.cri.removeImage({ image: imageSpec(image) });
const tags = async () => (await daemon.cri.listImages()).images.flatMap(({ repoTags }) => repoTags).sort();
const layer = (...files: string[]) => files.reduce((tar, file) => tar.file(file, file), new Rootfs()).done();
const layerFolders = () => readdirSync(join(daemon.root, 'layers')).filter((name) => name !== '_');

test('an image by tag and by digest: id, names, size, user', { skip }, async () => {
  const base = layer('etc/one');
  const pushed = await pushImage(registry.address, 'team/app:1', {
    layers: [base, layer('etc/two')],
    config: { User: '1002:7', Cmd: ['x'] },
  });
  assert.equal(await pull('reg.io/team/app:1'), pushed.id);
  const image = await status('reg.io/team/app:1');
  assert.deepEqual(image?.repoTags, ['reg.io/team/app:1']);
  assert.deepEqual(image?.repoDigests, [`reg.io/team/app@${pushed.digest}`]);
  assert.equal(image?.size, BigInt(pushed.size));
  assert.equal(image?.uid?.value, 1002n);
  assert.equal(image?.username, '');
  assert.equal(await pull(`other.io/team/app@${pushed.digest}`), pushed.id);
  assert.equal((await status(pushed.id))?.repoDigests.length, 2);
  assert.equal((await status(pushed.id.slice(7, 19)))?.id, pushed.id);
  const { info } = await daemon.cri.imageStatus({ image: imageSpec(pushed.id), verbose: true });
  const { imageSpec: file, chainID } = JSON.parse(info.info ?? '');
  assert.deepEqual(file.config.Cmd, ['x']);
  assert.match(chainID, /^sha256:/);
  await remove('reg.io/team/app:1');
  assert.equal(await status(pushed.id), undefined);
  await remove('reg.io/team/app:1');
});

test('an index leads to the image of this machine, and its digest is what names it', { skip }, async () => {
  const own = await pushImage(registry.address, 'multi:own', { layers: [layer('own')] });
  const alien = await pushImage(registry.address, 'multi:alien', { file: { architecture: 's390x' } });
  const digest = await pushIndex(registry.address, 'multi:latest', [
    { digest: alien.digest, platform: { os: 'linux', architecture: 's390x' } },
    { digest: own.digest, platform: { os: 'linux', architecture } },
  ]);
  assert.equal(await pull('reg.io/multi'), own.id);
  assert.deepEqual((await status('reg.io/multi'))?.repoDigests, [`reg.io/multi@${digest}`]);
  // A lone manifest is taken as it is: many are mislabelled, and the other runtimes take them.
  assert.equal(await pull('reg.io/multi:alien'), alien.id);
  await remove('reg.io/multi:alien');
  const none = await pushIndex(registry.address, 'multi:none', [
    { digest: alien.digest, platform: { os: 'linux', architecture: 's390x' } },
  ]);
  await assert.rejects(pull(`reg.io/multi@${none}`), /no match for platform/);
  await remove('reg.io/multi');
});

test('a tag that moves; layers that two images share', { skip }, async () => {
  const shared = layer('shared');
  const first = await pushImage(registry.address, 'moving:1', { layers: [shared, layer('a')] });
  assert.equal(await pull('reg.io/moving:1'), first.id);
  const before = layerFolders().length;
  const second = await pushImage(registry.address, 'moving:1', { layers: [shared, layer('b')] });
  assert.equal(await pull('reg.io/moving:1'), second.id);
  assert.equal(layerFolders().length, before + 1);
  assert.deepEqual((await status(first.id))?.repoTags, []);
  assert.deepEqual(await tags(), ['reg.io/moving:1', PAUSE]);
  await remove(second.id);
  assert.equal((await status(first.id))?.id, first.id);
  await remove(first.id);
  assert.deepEqual(await tags(), [PAUSE]);
  await waitFor('the layers to go', 5000, () => layerFolders().length === 1 || undefined);
});

test('folders that a layer only implies look as in its own image’s layers below', { skip }, async () => {
  const implies = tarball([{ path: 'tmp/f', content: 'f' }]);
  const bases = [0o1777, 0o700].map((mode) => tarball([{ path: 'tmp/', kind: 'directory', mode, uid: mode }]));
  const images = await Promise.all(
    bases.map((base, i) => pushImage(registry.address, `implied:${i}`, { layers: [base, implies] })),
  );
  const before = new Set(layerFolders());
  await Promise.all(images.map((_, i) => pull(`reg.io/implied:${i}`)));
  const looks = layerFolders()
    .filter((id) => !before.has(id))
    .map((id) => statSync(join(daemon.root, 'layers', id, 'fs/tmp')))
    .map(({ mode, uid }) => `${(mode & 0o7777).toString(8)} ${uid}`);
  assert.deepEqual(looks.sort(), ['1777 1023', '1777 1023', '700 448', '700 448']);
  for (const { id } of images) await remove(id);
});

test('many pulls at once: one download of each image', { skip }, async () => {
  const shared = layer(...Array.from({ length: 300 }, (_, i) => `many/${i}`));
  const images = await Promise.all(
    [1, 2, 3].map((i) => pushImage(registry.address, `crowd:${i}`, { layers: [shared, layer(`own${i}`)] })),
  );
  const counter = async () =>
    Number(/sluice_image_layers_total\{result="pulled"\} (\d+)/.exec(await daemon.scrape())?.[1]);
  const before = await counter();
  const ids = await Promise.all(Array.from({ length: 30 }, (_, i) => pull(`reg.io/crowd:${1 + (i % 3)}`)));
  assert.deepEqual([...new Set(ids)].sort(), images.map(({ id }) => id).sort());
  assert.equal((await counter()) - before, 4);
  const usage = (await daemon.cri.imageFsInfo()).imageFilesystems[0];
  assert.ok((usage?.inodesUsed?.value ?? 0n) > 300n);
  // After a restart all is there, and what is gone from the registry's point of view is still known here.
  await daemon.stop('SIGKILL');
  await daemon.start();
  assert.equal((await status('reg.io/crowd:2'))?.id, images[1]?.id);
  assert.equal((await daemon.cri.imageFsInfo()).imageFilesystems[0]?.inodesUsed?.value, usage?.inodesUsed?.value);
  await Promise.all([1, 2, 3].flatMap((i) => [remove(`reg.io/crowd:${i}`), remove(`reg.io/crowd:${i}`)]));
  assert.deepEqual(await tags(), [PAUSE]);
});

test('a client that leaves: its pull is cancelled, and the next one succeeds', { skip }, async () => {
  const pushed = await pushImage(registry.address, 'slow:1', { layers: [layer('slow')] });
  await assert.rejects(daemon.cri.pullImage({ image: imageSpec('reg.io/slow:1') }, { timeoutMs: 1 }));
  assert.equal(await pull('reg.io/slow:1'), pushed.id);
  await remove('reg.io/slow:1');
});

test('lists, filters and streams', { skip }, async () => {
  await pushImage(registry.address, 'one:1', { layers: [layer('one')] });
  await pull('reg.io/one:1');
  const filtered = async (image: string) =>
    (await daemon.cri.listImages({ filter: { image: imageSpec(image) } })).images;
  assert.equal((await filtered('reg.io/one:1')).length, 1);
  assert.equal((await filtered('reg.io/none:1')).length, 0);
  const streamed: string[] = [];
  for await (const { images } of daemon.cri.streamImages())
    streamed.push(...images.flatMap(({ repoTags }) => repoTags));
  assert.deepEqual(streamed.sort(), ['reg.io/one:1', PAUSE]);
  assert.equal((await status(PAUSE))?.pinned, true);
  for (const call of ['pullImage', 'imageStatus', 'removeImage'] as const)
    await assert.rejects(daemon.cri[call]({ image: undefined }), { code: GRPC.INVALID_ARGUMENT });
});

test('sluice image: pull, ls, inspect, export, rm, import, gc', { skip }, async () => {
  const pushed = await pushImage(registry.address, 'cli:1', { layers: [layer('cli/a'), layer('cli/b')] });
  const sluice = async (...args: string[]) =>
    (await run('/bin/sh', [join(ROOT, 'bin/sluice'), 'image', ...args, '--config', daemon.configFile])).stdout;
  assert.equal(await sluice('pull', 'reg.io/cli:1'), `reg.io/cli:1 ${pushed.id}\n`);
  assert.match(await sluice('ls'), /^IMAGE +ID +SIZE\nreg\.io\/cli:1 +[0-9a-f]{12} +[\d.]+ (?:B|KiB)\n/);
  const [inspected] = JSON.parse(await sluice('inspect', 'reg.io/cli:1'));
  assert.equal(inspected.id, pushed.id);
  assert.equal(inspected.imageSpec.rootfs.diff_ids.length, 2);
  const archive = join(folder, 'cli.tar');
  await sluice('export', 'reg.io/cli:1', '-o', archive);
  assert.match(await sluice('rm', 'reg.io/cli:1'), /^removed reg\.io\/cli:1/);
  await assert.rejects(sluice('rm', 'reg.io/cli:1'), /not on this node/);
  assert.match(await sluice('import', archive), /^reg\.io\/cli:1 sha256:/);
  const piped = `cat ${archive} | /bin/sh ${join(ROOT, 'bin/sluice')} image import - --config ${daemon.configFile}`;
  assert.match((await run('/bin/sh', ['-c', piped])).stdout, /^reg\.io\/cli:1 sha256:/);
  const next = await pushImage(registry.address, 'cli:2', { layers: [layer('cli/c')] });
  const [second] = JSON.parse(await sluice('pull', 'reg.io/cli:2', '--json'));
  assert.deepEqual(second, { name: 'reg.io/cli:2', id: next.id });
  const other = join(folder, 'cli2.tar');
  await sluice('export', 'reg.io/cli:2', '-o', other);
  assert.deepEqual(JSON.parse(await sluice('rm', 'reg.io/cli:1', 'reg.io/cli:2', '--json')).length, 2);
  const both = JSON.parse(await sluice('import', archive, other, '--json')) as { id: string; names: string[] }[];
  assert.deepEqual(
    both.map(({ names }) => names[0]),
    ['reg.io/cli:1', 'reg.io/cli:2'],
  );
  for (const { id } of both) assert.match(id, /^sha256:[0-9a-f]{64}$/);
  await assert.rejects(sluice('import', archive, other, '--name', 'reg.io/x:1'), /--name is for one archive/);
  const gone = JSON.parse(await sluice('gc', '--keep', '0', '--json')) as { removed: { names: string[] }[] };
  assert.deepEqual(
    gone.removed
      .flatMap(({ names }) => names)
      .filter((name) => /cli:[12]$/.test(name))
      .sort(),
    ['reg.io/cli:1', 'reg.io/cli:2'],
  );
  await sluice('import', archive);
  assert.match(await sluice('gc'), /^(?:.*\n)*removed reg\.io\/cli:1\n(?:.*\n)*\d+ images, .* freed\n$/);
  assert.deepEqual(await tags(), [PAUSE]);
  await assert.rejects(sluice('pull', 'reg.io/absent:1'), /not found/);
  const failing = async (...args: string[]) => {
    const words = ['image', ...args, '--config', daemon.configFile];
    const { code, stderr } = await run('/bin/sh', [join(ROOT, 'bin/sluice'), ...words], { check: false });
    return [code, stderr.trim()];
  };
  assert.equal((await failing('pull', 'reg.io/absent:1'))[0], 4);
  assert.equal((await failing('export', 'reg.io/absent:1', '-o', archive))[0], 4);
  assert.equal((await failing('pull', 'UPPER'))[0], 2);
  assert.equal((await failing('import', daemon.configFile))[0], 1);
  const none = join(folder, 'none.tar');
  assert.deepEqual(await failing('import', none), [1, `sluice: ENOENT: no such file or directory, stat '${none}'`]);
  const nobody = ['--socket', join(folder, 'none.sock')];
  await assert.rejects(run('/bin/sh', [join(ROOT, 'bin/sluice'), 'image', 'ls', ...nobody]), /no daemon answers/);
});
