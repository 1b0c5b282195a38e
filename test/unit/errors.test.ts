import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codeOf, explain, fromPlain, SluiceError, toPlain } from '../../src/errors.ts';
import { statusText } from '../../src/main/cri/server.ts';

test('a chain of causes reads as a path, repetitions left out', () => {
  const error = new SluiceError('CNI_FAILED', 'stage network', {
    cause: new SluiceError('CNI_FAILED', 'plugin bridge failed', { cause: new Error('no such bridge') }),
  });
  assert.equal(explain(error), 'stage network: plugin bridge failed: no such bridge');
  assert.equal(explain(new Error('outer: inner', { cause: new Error('inner') })), 'outer: inner');
});

test('the nearest code counts, and a full disk is seen wherever it comes from', () => {
  const full = Object.assign(new Error('write'), { code: 'ENOSPC' });
  assert.equal(codeOf(new SluiceError('SHIM_FAILED', 'the bundle cannot be made', { cause: full })), 'DISK_FULL');
  assert.equal(codeOf(Object.assign(new Error('database or disk is full'), { errcode: 13 })), 'DISK_FULL');
  assert.equal(codeOf(new Error('anything', { cause: new SluiceError('NOT_READY', 'x') })), 'NOT_READY');
  assert.equal(codeOf('text'), 'INTERNAL');
  // Node's error for a write over a quota.
  const quota = Object.assign(new Error('UNKNOWN: unknown error, write'), { code: 'UNKNOWN', errno: -122 });
  const wrapped = new SluiceError('SHIM_FAILED', 'the bundle cannot be made', { cause: quota });
  assert.equal(codeOf(wrapped), 'DISK_FULL');
  assert.equal(explain(wrapped), 'the bundle cannot be made: EDQUOT: disk quota exceeded, write');
  assert.equal(toPlain(quota).message, 'EDQUOT: disk quota exceeded, write');
});

test('an error crosses threads with its code, stage and path', () => {
  const error = new SluiceError('RUNTIME_FAILED', 'create', { cause: new Error('runc: no'), stage: 'create' });
  const copy = fromPlain(structuredClone(toPlain(error)));
  assert.equal(copy.code, 'RUNTIME_FAILED');
  assert.equal(copy.stage, 'create');
  assert.equal(explain(copy), explain(error));
});

test('what kubelet looks for is the first word of the status, wherever in the chain it was set', () => {
  const asked = new SluiceError('INVALID_REQUEST', 'no recursive read-only mounts', {
    kubeletReason: 'RROUnsupported',
  });
  const wrapped = new SluiceError('INVALID_REQUEST', 'stage spec', { cause: asked });
  assert.equal(statusText(wrapped), 'RROUnsupported: stage spec: no recursive read-only mounts');
  assert.equal(statusText(fromPlain(structuredClone(toPlain(wrapped)))), statusText(wrapped), 'also from a worker');
  const unavailable = new SluiceError('REGISTRY_UNAVAILABLE', 'connection refused');
  assert.equal(
    statusText(new SluiceError('REGISTRY_UNAVAILABLE', 'stage resolve', { cause: unavailable })),
    'RegistryUnavailable: stage resolve: connection refused',
  );
  const full = Object.assign(new Error('write'), { code: 'ENOSPC', cause: unavailable });
  assert.equal(statusText(full), 'write: connection refused', 'a full disk is not the registry');
  assert.equal(statusText(new Error('plain')), 'plain');
});

test('texts that are thrown in several places come from the table', () => {
  const error = SluiceError.of('NAME_TAKEN', 'sandbox', 'web_default_1_0', 'abc');
  assert.equal(error.code, 'NAME_TAKEN');
  assert.equal(error.message, 'the sandbox name "web_default_1_0" belongs to abc');
  const refusedByTheCompiler = [
    // @ts-expect-error a code without a text of its own
    () => SluiceError.of('INTERNAL'),
    // @ts-expect-error a detail is missing
    () => SluiceError.of('NOT_READY', 'pod', 'abc', 'ready'),
  ];
  assert.equal(refusedByTheCompiler.length, 2);
});
