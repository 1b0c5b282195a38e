import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { readBeside, storeLocation } from '../../src/workers/store/open.ts';

const count = (db: DatabaseSync) => (db.prepare('SELECT count(*) AS n FROM t').get() as { n: number }).n;

test('a store that its process has to itself is read from a copy, WAL included', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-open-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'sluice.db');
  assert.equal(storeLocation(path), path, 'a temporary folder is on no copy-on-write file system');
  const url = pathToFileURL(path);
  url.search = '?vfs=unix-excl';
  using db = new DatabaseSync(url);
  db.exec('PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY)');
  db.exec('INSERT INTO t VALUES (1), (2)');
  // Another process: within this one the lock is shared.
  const script = `const { readBeside } = await import(${JSON.stringify(new URL('../../src/workers/store/open.ts', import.meta.url).href)});
    console.log(readBeside(${JSON.stringify(path)}, (db) => db.prepare('SELECT count(*) AS n FROM t').get().n));`;
  const { execFileSync } = await import('node:child_process');
  const args = ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script];
  assert.equal(execFileSync(process.execPath, args, { encoding: 'utf8' }).trim(), '2');
  db.exec('PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (3)');
  assert.equal(execFileSync(process.execPath, args, { encoding: 'utf8' }).trim(), '3');
  // Threads of the process share the file, as the daemon's store worker does.
  const worker = new Worker(
    `const { DatabaseSync } = require('node:sqlite');
     const db = new DatabaseSync(new URL(${JSON.stringify(url.href)}));
     db.exec('INSERT INTO t VALUES (4); PRAGMA wal_checkpoint(PASSIVE)');
     db.close();`,
    { eval: true },
  );
  await new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject));
  assert.equal(count(db), 4);
});

test('a store that others may open is read where it is', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-open-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'sluice.db');
  using db = new DatabaseSync(path);
  db.exec('PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)');
  assert.equal(readBeside(path, count), 1);
  assert.throws(() => readBeside(join(folder, 'none'), count), /unable to open/);
  assert.throws(() => readBeside(path, () => assert.fail('the work')), /the work/);
});
