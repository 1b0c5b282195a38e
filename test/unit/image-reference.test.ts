import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import { digestName, fullName, parseReference, tagName } from '../../src/node/images/reference.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;

test('references are completed as docker does it', () => {
  for (const [text, full] of [
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1', 'docker.io/library/busybox:1'],
    ['user/app', 'docker.io/user/app:latest'],
    ['docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['index.docker.io/user/app:2', 'docker.io/user/app:2'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/app:1', 'localhost:5000/app:1'],
    ['reg.io/a/b_c/d__e/f-g.h:T_1.x-Y', 'reg.io/a/b_c/d__e/f-g.h:T_1.x-Y'],
    ['[::1]:5000/app', '[::1]:5000/app:latest'],
    ['REG.io/app', 'REG.io/app:latest'],
    [`busybox@${DIGEST}`, `docker.io/library/busybox@${DIGEST}`],
    [`reg.io:5000/a:1.2@${DIGEST}`, `reg.io:5000/a@${DIGEST}`],
  ] as const) {
    assert.equal(fullName(parseReference(text)), full, text);
  }
});

test('a digest leaves no tag name behind', () => {
  const reference = parseReference(`reg.io/a:1@${DIGEST}`);
  assert.equal(reference.tag, '1');
  assert.equal(tagName(reference), undefined);
  assert.equal(digestName(reference, DIGEST), `reg.io/a@${DIGEST}`);
  assert.equal(tagName(parseReference('reg.io/a')), 'reg.io/a:latest');
});

test('what is no reference is refused', () => {
  for (const text of [
    '',
    ' ',
    'Not A Reference!',
    'Busybox',
    'reg.io/App',
    'busybox:',
    'busybox:-x',
    `busybox:${'x'.repeat(129)}`,
    'busybox@sha256:12',
    `busybox@md5:${'a'.repeat(32)}`,
    `a@${DIGEST}@${DIGEST}`,
    'a'.repeat(64),
    'reg.io/',
    'reg.io//a',
    '/a',
    'a/../b',
    'reg.io/a..b',
    '-reg.io/a',
    'https://reg.io/a',
    `reg.io/${'a'.repeat(250)}`,
    'a\nb',
  ]) {
    assert.throws(
      () => parseReference(text),
      (error) => error instanceof SluiceError && error.code === 'INVALID_REQUEST',
      JSON.stringify(text),
    );
  }
});
