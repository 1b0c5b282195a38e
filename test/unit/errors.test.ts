import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { errorRows } from '../../scripts/errors-doc.ts';
import { codeOf, explain, fromPlain, SluiceError, toPlain } from '../../src/errors.ts';
import { kubeletText } from '../../src/main/cri/server.ts';

test('docs/errors.md has every error as the table has it', () => {
  const page = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
  const rows = page.split('\n').filter((line) => /^\| [A-Z_]+ \|/.test(line));
  assert.deepEqual(rows, errorRows(), 'run: node scripts/errors-doc.ts');
});

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
});

test('an error crosses threads with its code, stage and path', () => {
  const error = new SluiceError('RUNTIME_FAILED', 'create', { cause: new Error('runc: no'), stage: 'create' });
  const copy = fromPlain(structuredClone(toPlain(error)));
  assert.equal(copy.code, 'RUNTIME_FAILED');
  assert.equal(copy.stage, 'create');
  assert.equal(explain(copy), explain(error));
});

test('what kubelet looks for at the start of a message comes first', () => {
  const error = new SluiceError('REGISTRY_UNAVAILABLE', 'stage resolve', {
    cause: new Error('RegistryUnavailable: connection refused'),
  });
  assert.equal(kubeletText(error), 'RegistryUnavailable: connection refused (stage resolve)');
  assert.equal(kubeletText(new Error('plain')), 'plain');
});
