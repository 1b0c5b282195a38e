import assert from 'node:assert/strict';
import { test } from 'node:test';
import { layerMounts, viewOf } from '../../src/node/images/mounts.ts';
import { overlayPath, overlayPaths } from '../../src/sys/overlay.ts';

const ODD = ['/plain', '/a:b', '/a,b', '/a\\b', '/a\\', '/a\\:b\\,c', '/with space', '/línea\nnueva'];

test('paths come out of a list of folders as they went into it', () => {
  assert.deepEqual(overlayPaths(ODD.map(overlayPath).join(':')), ODD);
  assert.deepEqual(overlayPaths(''), []);
  assert.deepEqual(overlayPath('/a:b,c\\d'), '/a\\:b\\,c\\\\d');
});

test('a mount of layers has no comma or colon in its options that is not meant', () => {
  const [mount] = layerMounts(['/r,1:2/top', '/r,1:2/below'], '/r,1:2/own', false);
  const escaped = '/r\\,1\\:2';
  assert.deepEqual(mount?.options, [
    'index=off',
    `lowerdir=${escaped}/top:${escaped}/below`,
    `upperdir=${escaped}/own/fs`,
    `workdir=${escaped}/own/work`,
  ]);
  assert.deepEqual(viewOf(['/r,1/only'])[0]?.source, '/r,1/only', 'a bind mount has a path and no option');
});
