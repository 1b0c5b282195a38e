import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { StreamRequest } from '../../src/workers/stdio/protocol.ts';
import { Tokens } from '../../src/workers/stdio/tokens.ts';

const request: StreamRequest = { kind: 'portforward', sandboxId: 's', netns: '', ports: [] };

test('a token is valid once, for its own kind, for a minute', () => {
  let now = 0;
  const tokens = new Tokens(() => now);
  const token = tokens.issue(request);
  assert.match(token, /^[\w-]{22}$/);
  assert.equal(tokens.peek('exec', token), undefined);
  assert.equal(tokens.peek('portforward', `${token.slice(0, -1)}~`), undefined);
  assert.equal(tokens.peek('portforward', token), request);
  now = 59_999;
  assert.equal(tokens.peek('portforward', token), request);
  tokens.spend(token);
  assert.equal(tokens.peek('portforward', token), undefined);
  const second = tokens.issue(request);
  now += 60_000;
  assert.equal(tokens.peek('portforward', second), undefined);
  assert.equal(tokens.size, 0);
});

test('a thousand may be unused; one more is refused until one is used or expires', () => {
  let now = 0;
  const tokens = new Tokens(() => now);
  const first = tokens.issue(request);
  now = 30_000;
  for (let at = 1; at < 1000; at++) tokens.issue(request);
  assert.throws(() => tokens.issue(request), { code: 'QUEUE_FULL' });
  tokens.spend(first);
  tokens.issue(request);
  assert.throws(() => tokens.issue(request), { code: 'QUEUE_FULL' });
  now = 90_000;
  tokens.issue(request);
  assert.equal(tokens.size, 1);
});
