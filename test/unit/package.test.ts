import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ROOT } from '../rig/paths.ts';

interface Manifest {
  version?: string;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  engines?: Record<string, string>;
  integrity?: string;
  resolved?: string;
}

const json = (path: string) => JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
const manifest: Manifest = json('package.json');
const packages: Record<string, Manifest> = json('package-lock.json').packages;

test('package-lock.json is of this package.json', () => {
  const { dependencies, devDependencies, engines, version } = packages[''] ?? {};
  assert.deepEqual(
    { dependencies, devDependencies, engines, version },
    {
      dependencies: manifest.dependencies,
      devDependencies: manifest.devDependencies,
      engines: manifest.engines,
      version: manifest.version,
    },
  );
});

test('package-lock.json lists the packages of all platforms, so that npm ci takes it', () => {
  for (const [path, { dependencies, optionalDependencies }] of Object.entries(packages)) {
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      const found = packages[`${path}/node_modules/${name}`] ?? packages[`node_modules/${name}`];
      assert.ok(found?.version, `${path || 'package.json'} needs ${name}: run npm install --package-lock-only`);
    }
  }
});

test('package-lock.json pins what is installed, and no host', () => {
  for (const [path, { integrity, resolved }] of Object.entries(packages)) {
    if (path === '') continue;
    assert.match(integrity ?? '', /^sha512-/, path);
    assert.equal(resolved, undefined, path);
  }
});

test('a release starts the daemon with the options that the tree starts it with, but for those of WebAssembly', () => {
  const options = (path: string) => {
    const lines = readFileSync(join(ROOT, path), 'utf8').split('\n');
    const code = lines.filter((line) => !line.startsWith('#')).join('\n');
    return code.match(/--[a-z][\w-]*(=\S+)?/g)?.toSorted() ?? [];
  };
  const tree = options('bin/sluiced');
  // The tree strips types in it. With these V8 would refuse the compiled code that a release brings
  // (src/workers/http/parser.ts).
  const wasm = tree.filter((option) => option.startsWith('--no-wasm-'));
  assert.equal(wasm.length, 2);
  assert.ok(tree.length >= 5, String(tree));
  assert.deepEqual(
    options('packaging/bin/sluiced'),
    tree.filter((option) => !wasm.includes(option)),
  );
});
