/**
 * The layers of src/, as ARCHITECTURE.md draws them, and one table of the arrows that are allowed. Imports of types
 * count: what a file names it has to be read with.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { circles, type Import, importsOf } from '../rig/imports.ts';
import { ROOT } from '../rig/paths.ts';

interface Part {
  /** Which files belong to it; the first part that matches has the file. */
  files: RegExp;
  /** The parts whose files it may import, besides its own. */
  imports: string[];
}

const BASE = ['base', 'proto'];

/** The one table. A part lists every part below it that it may import; whatever is not listed is refused. */
const PARTS: Record<string, Part> = {
  base: { files: /^src\/[\w-]+\.ts$/, imports: ['proto'] },
  proto: { files: /^proto\/gen\//, imports: [] },
  sys: { files: /^src\/sys\//, imports: BASE },
  workers: { files: /^src\/workers\//, imports: ['sys', ...BASE] },
  /** Clients of gRPC services on this node. Nothing else of the node speaks gRPC, whose types would spread with it. */
  grpc: { files: /^src\/node\/grpc\//, imports: BASE },
  node: { files: /^src\/node\//, imports: ['grpc', 'workers', 'sys', ...BASE] },
  engine: { files: /^src\/pipeline\/engine\//, imports: ['node', 'workers', 'sys', ...BASE] },
  jobs: { files: /^src\/pipeline\/jobs\//, imports: ['engine', 'node', 'workers', 'sys', ...BASE] },
  cri: { files: /^src\/main\/cri\//, imports: ['jobs', 'engine', 'node', 'grpc', 'workers', 'sys', ...BASE] },
  main: { files: /^src\/main\//, imports: ['cri', 'jobs', 'engine', 'node', 'grpc', 'workers', 'sys', ...BASE] },
};

/** Packages that these parts alone may import. */
const PACKAGES: Record<string, string[]> = { '@grpc/grpc-js': ['cri', 'grpc'], koffi: ['sys'] };

const partOf = (file: string) => Object.keys(PARTS).find((name) => PARTS[name]?.files.test(file));

/** A line for each arrow that the tables do not allow. */
function refusals(imports: readonly Import[]): string[] {
  return imports.flatMap(({ from, to, line }) => {
    const part = partOf(from);
    const at = `${from}:${line} imports ${to}`;
    if (!part) return [`${at}: ${from} belongs to no layer`];
    if (!to.endsWith('.ts')) {
      const owners = PACKAGES[to];
      if (owners === undefined || owners.includes(part)) return [];
      return [`${at}: ${part} → ${to}, which only ${owners.join(' and ')} may import`];
    }
    const target = partOf(to);
    if (!target) return [`${at}: ${to} belongs to no layer`];
    return target === part || PARTS[part]?.imports.includes(target) ? [] : [`${at}: ${part} → ${target}`];
  });
}

const describe = ({ path, size }: { path: string[]; size: number }) =>
  `${path.join(' → ')}${size >= path.length ? ` (the shortest circle of a knot of ${size} files)` : ''}`;

const imports = importsOf(ROOT, ['src', 'proto/gen']);

test('the imports of src/ are found', () => {
  const some = (from: string, to: string) => imports.some((arrow) => arrow.from === from && arrow.to === to);
  assert.ok(imports.length > 500, `${imports.length} imports found`);
  assert.ok(some('src/main/sluiced.ts', 'src/main/daemon.ts'), 'import … from');
  assert.ok(some('src/node/streaming/stdio.ts', 'src/workers/stdio.ts'), 'new URL(literal)');
  assert.ok(some('src/node/threads/pools.ts', 'src/workers/shim.ts'), 'new URL(template)');
  const lost = imports.filter(({ to }) => to.startsWith('..'));
  assert.deepEqual(lost, [], 'imports that leave the repository');
});

test('every import of src/ follows the arrows', () => {
  const refused = refusals(imports);
  assert.equal(refused.length, 0, `${refused.length} arrows are not allowed:\n${refused.join('\n')}`);
});

test('values of node:http come from src/sys/http.ts, which says why', () => {
  const files = new Set(imports.map(({ from }) => from).filter((file) => file.startsWith('src/')));
  const of = (file: string) => readFileSync(join(ROOT, file), 'utf8').match(/^import (?!type ).* from 'node:http';$/gm);
  const found = [...files].flatMap((file) => (of(file) ?? []).map((line) => `${file}: ${line}`));
  assert.ok(files.size > 300, `${files.size} files looked at`);
  assert.deepEqual(found, []);
});

test('jobs leave files to workers: none of them imports node:fs', () => {
  const jobs = imports.filter(({ from }) => /^src\/pipeline\//.test(from));
  assert.ok(jobs.length > 100, `${jobs.length} imports looked at`);
  assert.deepEqual(
    jobs.filter(({ to }) => /^node:fs(\/promises)?$/.test(to)).map(({ from, to }) => `${from} imports ${to}`),
    [],
  );
});

test('no circle of files', () => {
  const found = circles(imports);
  assert.equal(found.length, 0, `circles of files: ${found.length}\n${found.map(describe).join('\n')}`);
});

test('arrows up and circles are refused: a tree made for it', () => {
  const root = mkdtempSync(join(tmpdir(), 'layers-'));
  try {
    const tree: Record<string, string> = {
      'src/errors.ts': "export type Cause = import('./sys/fd.ts').Fd;\n",
      'src/sys/fd.ts': "import koffi from 'koffi';\nexport type Fd = typeof koffi;\n",
      'src/workers/net.ts':
        "import type {\n  Fd,\n} from '../sys/fd.ts';\nexport type { Net } from '../node/net.ts';\n",
      'src/node/net.ts': [
        "import { Server } from '@grpc/grpc-js';",
        "// import { nothing } from '../pipeline/jobs/pods.ts';",
        "const entry = new URL('../workers/net.ts', import.meta.url);",
        'const text = \'import { x } from "./y.ts"\';',
        'export type Net = [Server, typeof entry, typeof text];',
      ].join('\n'),
      'src/pipeline/engine/runner.ts': "import '../jobs/pods.ts';\n",
      'src/pipeline/jobs/pods.ts': "import { run } from '../engine/runner.ts';\nexport * from './pods.ts';\n",
      'src/main/daemon.ts': "const pods = await import('../pipeline/jobs/pods.ts');\n",
      'src/loose/file.ts': "import 'koffi';\n",
    };
    for (const [file, text] of Object.entries(tree)) {
      mkdirSync(dirname(join(root, file)), { recursive: true });
      writeFileSync(join(root, file), text);
    }
    const found = importsOf(root, ['src']);
    assert.deepEqual(refusals(found), [
      'src/errors.ts:1 imports src/sys/fd.ts: base → sys',
      'src/loose/file.ts:1 imports koffi: src/loose/file.ts belongs to no layer',
      'src/node/net.ts:1 imports @grpc/grpc-js: node → @grpc/grpc-js, which only cri and grpc may import',
      'src/pipeline/engine/runner.ts:1 imports src/pipeline/jobs/pods.ts: engine → jobs',
      'src/workers/net.ts:4 imports src/node/net.ts: workers → node',
    ]);
    assert.deepEqual(circles(found).map(describe).sort(), [
      'src/node/net.ts → src/workers/net.ts → src/node/net.ts',
      'src/pipeline/jobs/pods.ts → src/pipeline/jobs/pods.ts (the shortest circle of a knot of 2 files)',
    ]);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
