import assert from 'node:assert/strict';
import test from 'node:test';
import { DirectStartPolicy } from '../../src/node/shims/direct-start-policy.ts';

const BINARY = 'containerd-shim-runc-v2';
const START = { key: '/usr/bin/containerd-shim-runc-v2:1:2:3', version: 3 } as const;

test('a program is eligible after one start command has succeeded', () => {
  const policy = new DirectStartPolicy();
  assert.equal(policy.eligible(BINARY), undefined);
  policy.commandSucceeded(BINARY, START);
  assert.deepEqual(policy.eligible(BINARY), START);
  assert.equal(policy.eligible('/opt/containerd-shim-runc-v2'), undefined, 'another entry of the configuration');
});

test('a program whose first direct start fails is excluded, until its file is replaced', () => {
  const policy = new DirectStartPolicy();
  policy.commandSucceeded(BINARY, START);
  assert.equal(policy.directFailed(START), true);
  assert.equal(policy.eligible(BINARY), undefined);
  policy.commandSucceeded(BINARY, START);
  assert.equal(policy.eligible(BINARY), undefined);
  const replaced = { ...START, key: '/usr/bin/containerd-shim-runc-v2:1:2:4' };
  policy.commandSucceeded(BINARY, replaced);
  assert.deepEqual(policy.eligible(BINARY), replaced);
});

test('a program that has answered once is not excluded by a later failure', () => {
  const policy = new DirectStartPolicy();
  policy.commandSucceeded(BINARY, START);
  policy.directSucceeded(START);
  assert.equal(policy.directFailed(START), false);
  assert.deepEqual(policy.eligible(BINARY), START);
});

test('other shims are never eligible, because their start command does work of its own', () => {
  const policy = new DirectStartPolicy();
  policy.commandSucceeded('containerd-shim-kata-v2', START);
  assert.equal(policy.eligible('containerd-shim-kata-v2'), undefined);
});
