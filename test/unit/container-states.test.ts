import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nowNs } from '../../src/clock.ts';
import { codeOf } from '../../src/errors.ts';
import {
  CONTAINER_STATES,
  type ContainerRow,
  type ContainerState,
  ContainerStates,
} from '../../src/node/store/container.ts';
import { Events } from '../../src/node/store/events.ts';
import { containerRow, follow, memoryTable } from './store-fixture.ts';

const container = (state: ContainerState) => containerRow({ state });

/** A row in this state, stored; `writes` has what comes after. */
function make(state: ContainerState) {
  const { table, writes } = memoryTable<ContainerRow>(({ id, state, exitCode, reason, message, cleanup }) => ({
    id,
    state,
    exitCode,
    reason,
    message,
    cleanup,
  }));
  const events = new Events(nowNs, () => {});
  const row = container(state);
  table.put(row);
  writes.length = 0;
  return { row, table, writes, published: follow(events), states: new ContainerStates(table, events) };
}

const END = { exitCode: 3, reason: 'Error', message: 'three', at: 5n };

/** The diagram of src/node/store/container.ts, written out a second time. */
const ALLOWED: Record<
  string,
  {
    apply: (states: ContainerStates, row: ContainerRow) => void;
    from: ContainerState[];
    /** Undefined: the state stays. */
    to?: ContainerState;
    event?: string;
  }
> = {
  creating: { apply: (states, row) => states.creating(row), from: ['creating'], to: 'creating' },
  created: { apply: (states, row) => states.created(row), from: ['creating'], to: 'created', event: 'created' },
  starting: { apply: (states, row) => states.starting(row), from: ['created', 'starting'], to: 'starting' },
  running: { apply: (states, row) => states.running(row), from: ['starting'], to: 'running', event: 'started' },
  noteEnd: { apply: (states, row) => states.noteEnd(row, END), from: ['running'] },
  exited: {
    apply: (states, row) => states.exited(row, END),
    from: ['created', 'starting', 'running'],
    to: 'exited',
    event: 'stopped',
  },
  removing: {
    apply: (states, row) => void states.removing(row),
    from: ['creating', 'created', 'exited', 'removing'],
    to: 'removing',
  },
  notRemoved: { apply: (states, row) => states.notRemoved(row, 'exited'), from: ['removing'], to: 'exited' },
  cleanUpPending: {
    apply: (states, row) => states.cleanUpPending(row, 'busy'),
    from: ['creating', 'removing'],
    to: 'removing',
  },
};

for (const [transition, { apply, from, to, event }] of Object.entries(ALLOWED)) {
  for (const state of CONTAINER_STATES) {
    if (from.includes(state)) {
      const path = to === undefined ? `leaves a container ${state}` : `takes a container from ${state} to ${to}`;
      test(`${transition} ${path}, stored before it is published`, async () => {
        const { row, table, writes, published, states } = make(state);
        apply(states, row);
        assert.equal(row.state, to ?? state);
        assert.equal(table.get('ctr1'), row);
        assert.deepEqual(
          writes.map((write) => write?.state),
          [to ?? state],
        );
        assert.deepEqual(await published(), event === undefined ? [] : [[event, 'ctr1', 'pod1']]);
      });
    } else {
      test(`${transition} refuses a container that is ${state}, and changes nothing`, async () => {
        const { row, writes, published, states } = make(state);
        const before = structuredClone(row);
        assert.throws(
          () => apply(states, row),
          (error) => codeOf(error) === 'INTERNAL' && new RegExp(`ctr1 cannot go from ${state} to `).test(String(error)),
        );
        assert.deepEqual(row, before);
        assert.deepEqual(writes, []);
        assert.deepEqual(await published(), []);
      });
    }
  }
}

test('each time is set when its event is published, and by nothing else', () => {
  const { row, states } = make('creating');
  const times = () => [row.createdAt > 0n, row.startedAt > 0n, row.finishedAt > 0n];
  states.creating(row);
  assert.deepEqual(times(), [false, false, false]);
  states.created(row);
  states.starting(row);
  assert.deepEqual(times(), [true, false, false]);
  states.running(row);
  assert.deepEqual(times(), [true, true, false]);
  assert.ok(row.startedAt >= row.createdAt);
  states.exited(row, { ...END, at: 0n });
  assert.ok(row.finishedAt >= row.startedAt && row.finishedAt <= nowNs(), 'an end without a time is now');
});

test('an end that was noted is the one that is recorded, unless another one is given', () => {
  const { row, writes, states } = make('running');
  states.noteEnd(row, END);
  states.exited(row);
  assert.deepEqual([row.exitCode, row.reason, row.message, row.finishedAt], [3, 'Error', 'three', 5n]);
  assert.deepEqual(
    writes.map((write) => [write?.state, write?.exitCode]),
    [
      ['running', 3],
      ['exited', 3],
    ],
  );
});

test('a start that is about to be taken back keeps why; a second one without words keeps the first one’s', () => {
  const { row, writes, states } = make('created');
  states.starting(row);
  states.starting(row, 'runc refused');
  states.starting(row);
  assert.deepEqual(
    writes.map((write) => write?.message),
    ['', 'runc refused', 'runc refused'],
  );
});

for (const state of ['creating', 'created', 'exited', 'removing'] as const) {
  test(`a removal that fails goes back to ${state}, from where it can be tried again`, () => {
    const { row, states } = make(state);
    const before = states.removing(row);
    assert.equal(before, state);
    states.notRemoved(row, before);
    assert.equal(row.state, state);
    assert.equal(states.removing(row), state);
  });
}

test('a pending clean-up is stored with its reason; the count of retries stays until a retry changes it', () => {
  const { row, writes, states } = make('creating');
  states.cleanUpPending(row, 'busy');
  states.cleanUpPending(row, 'still busy', 1);
  states.cleanUpPending(row, 'the daemon ended');
  assert.deepEqual(
    writes.map((write) => write?.cleanup),
    [
      { failed: 'busy', attempts: 0 },
      { failed: 'still busy', attempts: 1 },
      { failed: 'the daemon ended', attempts: 1 },
    ],
  );
});

test('what is forgotten has no row; its removal is published apart, once all of it is gone', async () => {
  const { row, table, published, states } = make('exited');
  states.removing(row);
  states.forget(row);
  states.forget(row);
  assert.equal(table.get('ctr1'), undefined);
  states.removed(row);
  assert.deepEqual(await published(), [['deleted', 'ctr1', 'pod1']]);
});

test('a store that cannot write keeps the event from being published', async () => {
  const { row, table, published, states } = make('running');
  table.update = () => {
    throw new Error('database or disk is full');
  };
  assert.throws(() => states.exited(row, END), /disk is full/);
  assert.deepEqual(await published(), []);
});

test('a container that was removed meanwhile is not stored again by what still holds its row', () => {
  const { row, table, writes, states } = make('removing');
  states.forget(row);
  states.cleanUpPending(row, 'the undo ended after its time limit');
  assert.equal(table.get('ctr1'), undefined);
  assert.deepEqual(writes, [undefined]);
});

test('the row of a creation is stored when the creation begins', () => {
  const { table, writes, states } = make('creating');
  const row = { ...container('creating'), id: 'ctr2' };
  states.creating(row);
  assert.equal(table.get('ctr2'), row);
  assert.equal(writes.length, 1);
});
