import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { ROOT } from '../rig/paths.ts';

/** Status of scripts/proto.sh where protoc or its well-known types are missing. */
const NO_GENERATOR = 3;

function filesBelow(folder: string): Map<string, string> {
  const names = globSync('**/*.ts', { cwd: folder }).sort();
  return new Map(names.map((name) => [name, readFileSync(join(folder, name), 'utf8')]));
}

test('proto/gen is what the generator makes of proto/*.proto', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'proto-gen-'));
  try {
    const { status, stderr } = spawnSync('sh', ['scripts/proto.sh', folder], { cwd: ROOT, encoding: 'utf8' });
    if (status === NO_GENERATOR) return t.skip(stderr.trim());
    assert.equal(status, 0, stderr);
    const fresh = filesBelow(folder);
    const committed = filesBelow(join(ROOT, 'proto/gen'));
    assert.ok(fresh.size > 10, `${fresh.size} files made`);
    assert.deepEqual([...committed.keys()], [...fresh.keys()], 'run: npm run proto');
    for (const [name, text] of fresh) assert.ok(committed.get(name) === text, `${name} differs; run: npm run proto`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('every file of proto/gen has an importer', () => {
  const texts = ['src', 'test', 'proto/gen'].flatMap((part) => [...filesBelow(join(ROOT, part)).values()]);
  for (const name of filesBelow(join(ROOT, 'proto/gen')).keys()) {
    const end = `/${name.replace('google/protobuf/', '')}`;
    assert.ok(
      texts.some((text) => text.includes(`${end}'`) || text.includes(`${end}"`)),
      `nobody imports proto/gen/${name}`,
    );
  }
});
