import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { onResize, statusOf, wantedStreams } from '../../src/workers/stdio/remote-session.ts';

const ALL = ['v5.channel.k8s.io', 'v4.channel.k8s.io', 'v4.base64.channel.k8s.io'];
const OLD = ['v3.channel.k8s.io', 'v2.channel.k8s.io', 'channel.k8s.io', 'base64.channel.k8s.io'];

test('from v4 on the status is JSON; before, it is text, and empty for success', () => {
  for (const protocol of ALL) {
    assert.equal(JSON.parse(statusOf({ exitCode: 0 }, protocol)).status, 'Success');
    const failed = JSON.parse(statusOf({ exitCode: 137 }, protocol));
    assert.deepEqual(failed.details.causes, [{ reason: 'ExitCode', message: '137' }]);
    const broken = JSON.parse(statusOf({ error: 'no shim' }, protocol));
    assert.deepEqual(
      [broken.status, broken.reason, broken.code, broken.message],
      ['Failure', 'InternalError', 500, 'Internal error occurred: no shim'],
    );
  }
  for (const protocol of OLD) {
    assert.equal(statusOf({ exitCode: 0 }, protocol), '');
    assert.match(statusOf({ exitCode: 2 }, protocol), /exit status 2$/);
    assert.equal(statusOf({ error: 'no shim' }, protocol), 'Internal error occurred: no shim');
  }
});

test('a client opens what the request asked for; a resize stream from v3 on, with a terminal', () => {
  const all = { stdin: true, stdout: true, stderr: true, tty: false };
  assert.deepEqual(wantedStreams(all, 'v4.channel.k8s.io'), ['stdin', 'stdout', 'stderr']);
  const tty = { stdin: true, stdout: true, stderr: false, tty: true };
  assert.deepEqual(wantedStreams(tty, 'v3.channel.k8s.io'), ['stdin', 'stdout', 'resize']);
  assert.deepEqual(wantedStreams(tty, 'v2.channel.k8s.io'), ['stdin', 'stdout']);
  assert.deepEqual(wantedStreams(tty, 'channel.k8s.io'), ['stdin', 'stdout']);
});

async function resizes(...chunks: string[]) {
  const stream = new PassThrough();
  const sizes: string[] = [];
  onResize(stream, ({ width, height }) => sizes.push(`${width}x${height}`));
  for (const chunk of chunks) {
    if (!stream.destroyed) stream.write(chunk);
    await turn();
  }
  return { sizes, destroyed: stream.destroyed };
}

test('resize messages are parsed however they are split', async () => {
  const text = '{"Width":80,"Height":24}\n{"Width":132,"Height":43}\n';
  for (let cut = 0; cut < text.length; cut++) {
    assert.deepEqual((await resizes(text.slice(0, cut), text.slice(cut))).sizes, ['80x24', '132x43']);
  }
});

test('sizes below one are ignored; anything else ends the stream', async () => {
  assert.deepEqual(await resizes('{"Width":0,"Height":24}{"Width":-1,"Height":24}'), { sizes: [], destroyed: false });
  for (const bad of ['}', '{"Width":"80","Height":24}', '{"Width":80}', '{"Width":1e9,"Height":1}', 'x'.repeat(2000)]) {
    assert.deepEqual(await resizes(bad, '{"Width":80,"Height":24}'), { sizes: [], destroyed: true }, bad);
  }
});
