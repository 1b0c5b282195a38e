/**
 * Registries as they are: Debian's docker-registry (distribution 2), distribution 3, and the one of
 * go-containerregistry that crane and ko serve. zot cannot be had: the Go module proxy refuses its modules. As root.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { codeOf, explain } from '../../src/errors.ts';
import type { Images } from '../../src/node/images/images.ts';
import { type Pools, startPools } from '../../src/node/threads/pools.ts';
import { built, Unavailable } from '../rig/build.ts';
import { makeImages, pullImage } from '../rig/images-service.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder } from '../rig/paths.ts';
import { freePort, start, waitFor } from '../rig/proc.ts';
import { architecture, pushImage, pushIndex } from '../rig/push.ts';
import { startRegistry } from '../rig/registry.ts';
import { tarball } from '../rig/tarball.ts';

const skip = skipUnlessRoot('docker-registry');
const folder = privateFolder('real-registries');
let pools: Pools;
let images: Images;

before(async () => {
  if (skip) return;
  pools = startPools();
  mkdirSync(join(folder, 'root'));
  images = await makeImages(pools, { root: join(folder, 'root') });
});
after(async () => {
  await pools?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** The path of a program that is built from Go modules; undefined, and the test skipped, where it cannot be. */
async function builtFor(t: TestContext, name: Parameters<typeof built>[0]): Promise<string | undefined> {
  try {
    return await built(name);
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    t.skip(error.message);
    return undefined;
  }
}

/**
 * By tag, by digest, through an index, compressed each way, with a layer of several megabytes; and what is not there.
 */
async function serves(address: string): Promise<void> {
  const tar = tarball([
    { path: 'file', content: 'x' },
    { path: 'big', content: randomBytes(6 << 20) },
  ]);
  const other = tarball([{ path: 'other', content: randomBytes(1000) }]);
  const { digest, id } = await pushImage(address, 'team/app:1', {
    layers: [
      { tar, blob: gzipSync(tar, { level: 1 }) },
      { tar: other, blob: zstdCompressSync(other), mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd' },
    ],
    config: { Cmd: ['/file'] },
  });
  const index = await pushIndex(address, 'team/app:multi', [
    { digest, platform: { os: 'linux', architecture } },
    { digest, platform: { os: 'plan9', architecture: 'mips' } },
  ]);
  for (const name of ['team/app:1', `team/app@${digest}`, 'team/app:multi', `team/app:multi@${index}`]) {
    const row = await pullImage(images, `${address}/${name}`).catch((error: unknown) => assert.fail(explain(error)));
    assert.equal(row.id, id);
    const [bottom = ''] = row.layers;
    assert.equal(readFileSync(join(images.layers.folder, bottom, 'fs/file'), 'utf8'), 'x');
    await images.remove(row);
  }
  for (const [name, code] of [
    ['team/app:none', 'IMAGE_NOT_FOUND'],
    ['team/none:1', 'IMAGE_NOT_FOUND'],
    [`team/app@sha256:${'0'.repeat(64)}`, 'IMAGE_NOT_FOUND'],
  ] as const) {
    const error = await pullImage(images, `${address}/${name}`).then(
      () => assert.fail(`${name} was pulled`),
      (reason: unknown) => reason,
    );
    assert.equal(codeOf(error), code, explain(error));
    assert.match(explain(error), /404: (?:MANIFEST|NAME)_UNKNOWN/);
  }
}

test('distribution 2', { skip }, async () => {
  await using registry = await startRegistry({ folder });
  await serves(registry.address);
});

test('distribution 3', { skip }, async (t) => {
  const program = await builtFor(t, 'distribution-3');
  if (program === undefined) return;
  await using registry = await startRegistry({ folder, program });
  await serves(registry.address);
});

test('go-containerregistry', { skip }, async (t) => {
  const program = await builtFor(t, 'crane-registry');
  if (program === undefined) return;
  const port = await freePort();
  const server = start(program, ['-port', String(port)], join(folder, 'crane.log'));
  t.after(() => server.stop());
  await waitFor('the registry', 20_000, async () => (await fetch(`http://localhost:${port}/v2/`)).ok || undefined);
  await serves(`localhost:${port}`);
});
