/**
 * The version of the store: migrations from older ones, the refusal of newer ones. Each migration in migrations.ts has
 * a test here.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import { MIGRATIONS, type Migrations, newestVersion } from '../../src/node/store/migrations.ts';
import { Store, type StoreOptions } from '../../src/node/store/store.ts';
import { VERSION } from '../../src/version.ts';
import { syncCopies, writeCopies } from '../../src/workers/store/copies.ts';
import { sandboxRow } from './store-fixture.ts';

class Rig implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'sluice-versions-'));
  readonly path = join(this.folder, 'sluice.db');
  readonly errors: string[] = [];

  open(options: Partial<StoreOptions> = {}): Store {
    const note = (about: unknown, message?: string) => void this.errors.push(`${message} ${JSON.stringify(about)}`);
    const at = (table: string) => join(this.folder, 'rows', table);
    return new Store(this.path, {
      log: { info: () => {}, warn: note, error: note },
      copies: {
        folders: { sandboxes: at('s'), containers: at('c'), images: at('i'), layers: at('l') },
        writer: { writeCopies: async (input) => writeCopies(input), syncCopies: async (input) => syncCopies(input) },
      },
      ...options,
    });
  }

  sql(text: string): unknown {
    const db = new DatabaseSync(this.path);
    try {
      return text.startsWith('PRAGMA u') && !text.includes('=') ? db.prepare(text).get() : db.exec(text);
    } finally {
      db.close();
    }
  }

  async fill(): Promise<void> {
    using store = this.open();
    store.sandboxes.put(sandboxRow({ id: 'p1' }));
    store.sandboxes.put(sandboxRow({ id: 'p2', name: 'other' }));
    await store.copies?.[Symbol.asyncDispose]();
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Two steps, as later versions may have them. */
const TWO_STEPS: Migrations = {
  1: (db) => void db.exec("UPDATE sandboxes SET row = json_set(row, '$.runtime', 'crun')"),
  2: (db) => {
    db.exec("UPDATE sandboxes SET row = json_set(row, '$.runtimeHandler', json_extract(row, '$.runtime') || '!')");
    db.exec("DELETE FROM sandboxes WHERE id = 'p2'");
  },
};

test('migrations have the versions from 1 on, without a gap', () => {
  const versions = Object.keys(MIGRATIONS).map(Number);
  assert.deepEqual(
    versions,
    Array.from({ length: newestVersion() - 1 }, (_, index) => index + 1),
  );
});

test('a store notes its version and which Sluice has written it', async () => {
  using rig = new Rig();
  await rig.fill();
  assert.deepEqual({ ...(rig.sql('PRAGMA user_version') as object) }, { user_version: newestVersion() });
  const db = new DatabaseSync(rig.path);
  assert.equal(db.prepare("SELECT value FROM about WHERE name = 'writer'").get()?.value, `Sluice ${VERSION}`);
  db.close();
});

test('an older store is migrated step by step, once', async () => {
  using rig = new Rig();
  await rig.fill();
  {
    using store = rig.open({ migrations: TWO_STEPS });
    assert.deepEqual(
      [...store.sandboxes.values()].map(({ id, runtime, runtimeHandler }) => [id, runtime, runtimeHandler]),
      [['p1', 'crun', 'crun!']],
    );
    assert.equal(store.rebuilt, false);
  }
  assert.deepEqual({ ...(rig.sql('PRAGMA user_version') as object) }, { user_version: 3 });
  const again: Migrations = { 1: () => assert.fail('a second time'), 2: () => assert.fail('a second time') };
  using store = rig.open({ migrations: again });
  assert.equal(store.sandboxes.get('p1')?.runtime, 'crun');
  assert.deepEqual(rig.errors, []);
});

test('a newer store is refused with the Sluice that wrote it and what to do, and is not changed', async () => {
  using rig = new Rig();
  {
    using _newer = rig.open({ migrations: TWO_STEPS });
  }
  rig.sql("UPDATE about SET value = 'Sluice 7.1.0' WHERE name = 'writer'");
  const before = readFileSync(rig.path);
  assert.throws(
    () => rig.open(),
    (error: Error) =>
      codeOf(error) === 'CONFIG_INVALID' &&
      /Sluice 7\.1\.0.*version 3.*reads versions up to 1.*Start that Sluice again.*drain the node/.test(error.message),
  );
  assert.deepEqual(readFileSync(rig.path), before);
  assert.deepEqual(
    readdirSync(rig.folder).filter((name) => name.includes('broken')),
    [],
  );
});

test('a store that a migration does not understand is moved aside, and rebuilt from copies of the older version', async () => {
  using rig = new Rig();
  await rig.fill();
  rig.sql("UPDATE sandboxes SET row = '{' WHERE id = 'p1'"); // json_set throws
  using store = rig.open({ migrations: TWO_STEPS });
  assert.deepEqual(
    [...store.sandboxes.values()].map(({ id, runtimeHandler }) => [id, runtimeHandler]),
    [['p1', 'crun!']],
    'the copies went through the same migrations',
  );
  assert.equal(store.rebuilt, true);
  assert.match(rig.errors.join('\n'), /moved aside.*from version 1 to 2/);
});
