import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import { Table } from '../../src/node/store/table.ts';

interface Thing {
  id: string;
  size: number;
}

/** A table whose writes are kept, or refused while `full`. */
function make(stored: Thing[] = []) {
  const writes: string[] = [];
  const disk = { full: false };
  const write = (what: string) => (id: string, json?: string) => {
    if (disk.full) throw new Error('database or disk is full');
    writes.push([what, id, json].filter((part) => part !== undefined).join(' '));
  };
  const writer = { insert: write('insert'), update: write('update'), delete: write('delete') };
  const rows = stored.map((thing) => ({ id: thing.id, row: JSON.stringify(thing) }));
  return { table: new Table<Thing>(undefined, writer, rows), writes, disk };
}

test('a new row is inserted, a changed one updated, and a deleted one gone', () => {
  const { table, writes } = make();
  const row = { id: 'a', size: 1 };
  table.put(row);
  row.size = 2;
  table.put(row);
  table.delete('a');
  table.delete('a');
  assert.deepEqual(writes, ['insert a {"id":"a","size":1}', 'update a {"id":"a","size":2}', 'delete a', 'delete a']);
  assert.equal(table.size, 0);
});

test('what was stored is there, and a change of it is an update', () => {
  const { table, writes } = make([
    { id: 'a', size: 1 },
    { id: 'b', size: 2 },
  ]);
  assert.deepEqual(
    [...table.values()],
    [
      { id: 'a', size: 1 },
      { id: 'b', size: 2 },
    ],
  );
  assert.equal(table.size, 2);
  table.put({ id: 'b', size: 3 });
  assert.deepEqual(writes, ['update b {"id":"b","size":3}']);
  assert.equal(table.get('b')?.size, 3);
});

test('a row that cannot be written is not in memory either, and one that cannot be deleted stays', () => {
  const { table, disk } = make();
  table.put({ id: 'a', size: 1 });
  disk.full = true;
  assert.throws(() => table.put({ id: 'b', size: 1 }), /disk is full/);
  assert.throws(() => table.delete('a'), /disk is full/);
  assert.equal(table.get('b'), undefined);
  assert.equal(table.get('a')?.size, 1);
});

test('a row that was deleted, or replaced by another one of its id, is not written back', () => {
  const { table, writes } = make();
  const row = { id: 'a', size: 1 };
  table.update(row);
  assert.equal(table.get('a'), undefined, 'never stored');
  table.put(row);
  table.delete('a');
  table.update(row);
  assert.equal(table.get('a'), undefined, 'deleted');
  const next = { id: 'a', size: 2 };
  table.put(next);
  table.update(row);
  assert.equal(table.get('a'), next, 'replaced');
  next.size = 3;
  table.update(next);
  assert.deepEqual(writes, [
    'insert a {"id":"a","size":1}',
    'delete a',
    'insert a {"id":"a","size":2}',
    'update a {"id":"a","size":3}',
  ]);
});

test('an exact id wins over longer ones that begin so', () => {
  const { table } = make();
  table.put({ id: 'ab', size: 1 });
  table.put({ id: 'abc', size: 2 });
  assert.equal(table.find('ab')?.size, 1);
  assert.equal(table.find('abc')?.size, 2);
  assert.throws(
    () => table.find('a'),
    (error) => codeOf(error) === 'INVALID_REQUEST',
  );
});

test('without a writer a table keeps its rows in memory', () => {
  const table = new Table<Thing>();
  table.put({ id: 'a', size: 1 });
  assert.deepEqual(table.get('a'), { id: 'a', size: 1 });
  table.delete('a');
  assert.equal(table.get('a'), undefined);
});
