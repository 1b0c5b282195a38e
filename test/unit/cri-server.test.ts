import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { ImageServiceDefinition, ListImagesResponse, RuntimeServiceDefinition } from '../../proto/gen/cri.ts';
import { GRPC, SluiceError } from '../../src/errors.ts';
import type { ImageVerbs } from '../../src/main/cri/call.ts';
import { CriServer } from '../../src/main/cri/server.ts';
import { Encoded } from '../../src/node/grpc/service.ts';
import { connectCri } from '../rig/cri.ts';

test('verbs are typed by the generated service', () => {
  // @ts-expect-error the method is listImages, and the other five are missing
  const misspelt: ImageVerbs = { listImagse: () => ({ images: [] }) };
  const other: Pick<ImageVerbs, 'listImages'> = {
    // @ts-expect-error the response of another method
    listImages: () => ({ items: [] }),
  };
  assert.ok(misspelt && other);
});

test('calls, streams, errors and missing verbs over a real socket', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'cri-'));
  const socket = join(folder, 'cri.sock');
  const ended: [string, number][] = [];
  const image = { ...ListImagesResponse.decode(Buffer.alloc(0)), images: [] };
  const server = new CriServer({
    socket,
    services: [
      {
        definition: ImageServiceDefinition,
        verbs: {
          listImages: () => new Encoded(Buffer.from(ListImagesResponse.encode(image).finish())),
          *streamImages() {
            yield { images: [] };
            yield { images: [] };
          },
          pullImage: () => {
            throw new SluiceError('REGISTRY_UNAVAILABLE', 'stage resolve', { cause: new Error('connection refused') });
          },
        },
      },
      { definition: RuntimeServiceDefinition, verbs: {} },
    ],
    onCall: (method, code) => ended.push([method, code]),
  });
  try {
    await server.listen();
    assert.equal(statSync(socket).mode & 0o777, 0o600);
    await assert.rejects(new CriServer({ socket, services: [] }).listen(), { code: 'INVALID_REQUEST' });
    using cri = connectCri(socket);
    assert.deepEqual(await cri.listImages(), { images: [] });
    assert.equal((await Array.fromAsync(cri.streamImages())).length, 2);
    await assert.rejects(cri.pullImage(), {
      code: GRPC.UNAVAILABLE,
      details: 'RegistryUnavailable: stage resolve: connection refused',
    });
    await assert.rejects(cri.version(), { code: GRPC.UNIMPLEMENTED });
    assert.deepEqual(ended, [
      ['ListImages', 0],
      ['StreamImages', 0],
      ['PullImage', GRPC.UNAVAILABLE],
    ]);
  } finally {
    await server.close(1000);
    assert.ok(!existsSync(socket));
    rmSync(folder, { recursive: true, force: true });
  }
});
