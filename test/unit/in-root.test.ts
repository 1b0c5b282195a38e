import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { resolveInRoot, walkInRoot } from '../../src/sys/in-root.ts';

const root = mkdtempSync(join(tmpdir(), 'sluice-in-root-'));
after(() => rmSync(root, { recursive: true }));
mkdirSync(join(root, 'a/b'), { recursive: true });
writeFileSync(join(root, 'a/b/file'), '');
symlinkSync('/a/b', join(root, 'absolute'));
symlinkSync('../../../../../etc', join(root, 'a/out'));
symlinkSync('b/../b/./file', join(root, 'a/winding'));
symlinkSync('loop', join(root, 'loop'));

describe('a path below a root', () => {
  const cases: [path: string, resolved: string][] = [
    ['/a/b/file', 'a/b/file'],
    ['a//b/./file', 'a/b/file'],
    ['../../a/../a/b', 'a/b'],
    ['/absolute/file', 'a/b/file'],
    ['/a/out/passwd', 'etc/passwd'],
    ['/a/winding', 'a/b/file'],
    ['/absent/../a/nothing/here', 'a/nothing/here'],
    ['', ''],
  ];
  for (const [path, resolved] of cases) {
    test(`"${path}"`, () => assert.equal(resolveInRoot(root, path), join(root, resolved)));
  }

  test('a link to itself ends with ELOOP', () => {
    assert.throws(() => resolveInRoot(root, '/loop/x'), {
      code: 'ELOOP',
      message: /too many symbolic links in \/loop\/x/,
    });
  });
});

test('a walk that is stopped looks no further, and gets what follows', () => {
  const entered: [string, string[]][] = [];
  walkInRoot(['x', '', 'y', 'z'], {
    enter(name, rest) {
      entered.push([name, [...rest]]);
      return name === 'y' ? 'stop' : 'entered';
    },
    leave: () => assert.fail(),
    restart: () => assert.fail(),
    tooManyLinks: () => new Error(),
  });
  assert.deepEqual(entered, [
    ['x', ['', 'y', 'z']],
    ['y', ['z']],
  ]);
});
