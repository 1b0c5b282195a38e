import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ImageServiceDefinition, ListImagesResponse, RuntimeServiceDefinition } from '../../proto/gen/cri.ts';
import { GRPC, SluiceError } from '../../src/errors.ts';
import type { CallInfo, ImageVerbs } from '../../src/main/cri/call.ts';
import { CriServer } from '../../src/main/cri/server.ts';
import { HEADROOM } from '../../src/main/cri/stream-room.ts';
import { timeLeft } from '../../src/main/cri/turned-server.ts';
import { Encoded } from '../../src/node/grpc/service.ts';
import { listenUnix } from '../../src/sys/unix-socket.ts';
import { connectCri } from '../rig/cri.ts';
import { ROOT } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';

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

/** A server of its own with these verbs, in a private folder. */
async function served(verbs: Record<string, (request: never, call: CallInfo) => unknown>) {
  const folder = mkdtempSync(join(tmpdir(), 'cri-'));
  const socket = join(folder, 'cri.sock');
  const ended: number[] = [];
  const server = new CriServer({
    socket,
    services: [{ definition: RuntimeServiceDefinition, verbs }],
    onCall: (_method, code) => ended.push(code),
  });
  await server.listen();
  return {
    server,
    socket,
    /** gRPC status of each call that has ended. */
    ended,
    async [Symbol.asyncDispose]() {
      await server.close(1000);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

test('hundreds of launches that come at once do not keep the calls of other connections waiting', async () => {
  const LAUNCHES = 300;
  await using one = await served({
    runPodSandbox() {
      for (const end = performance.now() + 1; performance.now() < end; );
      throw new SluiceError('QUEUE_FULL', 'full');
    },
    listPodSandbox: () => ({ items: [] }),
  });
  using cri = connectCri(one.socket);
  using other = connectCri(one.socket);
  await Promise.all([cri.listPodSandbox(), other.listPodSandbox()]);
  let over = false;
  const launches = Array.from({ length: LAUNCHES }, () =>
    assert.rejects(cri.runPodSandbox(), { code: GRPC.RESOURCE_EXHAUSTED }),
  );
  const all = Promise.all(launches).finally(() => {
    over = true;
  });
  let lists = 0;
  while (!over) {
    await other.listPodSandbox();
    lists++;
  }
  await all;
  // Handed over as they are read, they take 0.3 s in which nothing else is done.
  assert.ok(lists >= 10, `${lists} lists`);
});

test('for a call whose deadline passes, or whose client leaves, before its turn nothing is done', async () => {
  let begun = 0;
  await using one = await served({
    runPodSandbox() {
      begun++;
      for (const end = performance.now() + 5; performance.now() < end; );
      return { podSandboxId: '' };
    },
    version: () => ({}),
  });
  {
    using cri = connectCri(one.socket);
    await cri.version();
    await Promise.allSettled(Array.from({ length: 200 }, () => cri.runPodSandbox({}, { timeoutMs: 100 })));
  }
  // Those that the connection had no room for never left the client.
  await waitFor('all connections to end', 5000, () => one.server.connections === 0 || undefined);
  await sleep(100); // calls that would have had their turn after that
  const dropped = one.ended.filter((code) => code === GRPC.DEADLINE_EXCEEDED || code === GRPC.CANCELLED).length;
  assert.ok(dropped > 10, `${dropped} dropped`);
  assert.ok(begun <= 200 - 50, `${begun} begun`);
});

test('a connection has room for more calls as soon as those before have begun, however long they take', async () => {
  const CALLS = 300;
  const gate = Promise.withResolvers<object>();
  let begun = 0;
  await using one = await served({
    stopPodSandbox: () => {
      begun++;
      return gate.promise;
    },
    listPodSandbox: () => ({ items: [] }),
  });
  const { promise: settings, resolve } = Promise.withResolvers<number | undefined>();
  const raw = connectHttp2('http://localhost', { createConnection: () => connect(one.socket) });
  raw.once('remoteSettings', ({ maxConcurrentStreams }) => resolve(maxConcurrentStreams));
  assert.equal(await settings, HEADROOM, 'what a new connection is told');
  raw.destroy();
  using cri = connectCri(one.socket);
  const stops = Array.from({ length: CALLS }, () => cri.stopPodSandbox());
  await waitFor('all stops to begin', 5000, () => begun === CALLS || undefined);
  await cri.listPodSandbox({}, { timeoutMs: 1000 });
  gate.resolve({});
  assert.equal((await Promise.all(stops)).length, CALLS);
});

test('who sends thousands of calls has no more than some tens of them waiting for their turn', async () => {
  let [most, ended] = [0, 0];
  await using one = await served({
    runPodSandbox() {
      throw new SluiceError('QUEUE_FULL', 'full');
    },
    version: () => ({}),
  });
  using cri = connectCri(one.socket);
  await cri.version();
  const watch = setInterval(() => {
    most = Math.max(most, one.server.waiting);
  }, 0);
  const calls = Array.from({ length: 2000 }, () =>
    assert.rejects(cri.runPodSandbox(), { code: GRPC.RESOURCE_EXHAUSTED }).then(() => ended++),
  );
  await Promise.all(calls);
  clearInterval(watch);
  assert.equal(ended, 2000);
  assert.ok(most <= 2 * HEADROOM, `${most} waited`);
});

test('what waits for its turn uses up its deadline', () => {
  assert.equal(timeLeft('2S', 0.5), '2S', 'what does not wait keeps its header');
  assert.equal(timeLeft('2S', 500), '1500m');
  assert.equal(timeLeft('100m', 99.5), '0m');
  assert.equal(timeLeft('100m', 100), '0m');
  assert.equal(timeLeft('5000000u', 1000), '4000m');
  assert.equal(timeLeft('99999999n', 50), '49m');
  assert.equal(timeLeft('99999999H', 5000), '99999999H');
  assert.equal(timeLeft('soon', 5000), 'soon', 'grpc-js says what is wrong with it');
});

test('a thousand short connections leave neither descriptors nor anything else', { timeout: 60_000 }, async () => {
  await using one = await served({ version: () => ({}) });
  const descriptors = () => readdirSync('/proc/self/fd').length;
  const connect = async () => {
    using cri = connectCri(one.socket);
    await cri.version();
  };
  for (let i = 0; i < 10; i++) await connect();
  const before = descriptors();
  for (let i = 0; i < 100; i++) await Promise.all(Array.from({ length: 10 }, connect));
  await waitFor('all connections to end', 5000, () => one.server.connections === 0 || undefined);
  assert.ok(descriptors() <= before, `${descriptors()} descriptors, ${before} before`);
});

const ONE_SERVER = `
import { ImageServiceDefinition } from '${ROOT}/proto/gen/cri.ts';
import { CriServer } from '${ROOT}/src/main/cri/server.ts';
const verbs = { listImages: () => ({ images: [] }) };
const server = new CriServer({ socket: '', listener: 3, services: [{ definition: ImageServiceDefinition, verbs }] });
process.on('SIGTERM', () => server.close(1000).then(() => process.exit(0)));
await server.listen();
console.log('listens');
`;

test('calls on new connections do not fail while one daemon gives its socket over to the next', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'cri-'));
  const socket = join(folder, 'cri.sock');
  using listener = listenUnix(socket);
  const flags = ['--disable-warning=ExperimentalWarning', '--input-type=module', '--eval', ONE_SERVER];
  const begin = async () => {
    const child = spawn(process.execPath, flags, { stdio: ['ignore', 'pipe', 'inherit', listener.number] });
    await once(child.stdout as Readable, 'data');
    return child;
  };
  let over = false;
  let calls = 0;
  const failures: string[] = [];
  const client = async () => {
    while (!over) {
      using cri = connectCri(socket);
      await cri.listImages().then(
        () => calls++,
        (error) => failures.push(String(error)),
      );
    }
  };
  try {
    let server = await begin();
    const clients = Array.from({ length: 6 }, client);
    for (let round = 0; round < 4; round++) {
      await sleep(100);
      const ended = once(server, 'exit');
      server.kill('SIGTERM');
      assert.deepEqual(await ended, [0, null]);
      server = await begin();
    }
    over = true;
    await Promise.all(clients);
    server.kill('SIGTERM');
    await once(server, 'exit');
    assert.deepEqual(failures, []);
    assert.ok(calls > 10, `${calls} calls`);
  } finally {
    over = true;
    rmSync(folder, { recursive: true });
  }
});
