import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nowNs } from '../../src/clock.ts';
import { codeOf } from '../../src/errors.ts';
import { Events } from '../../src/node/store/events.ts';
import { SANDBOX_STATES, type SandboxRow, type SandboxState, SandboxStates } from '../../src/node/store/sandbox.ts';
import { follow, memoryTable, sandboxRow } from './store-fixture.ts';

const sandbox = (state: SandboxState) => sandboxRow({ state });

/** A row in this state, stored; `writes` has what comes after. */
function make(state: SandboxState) {
  const { table, writes } = memoryTable<SandboxRow>(({ id, state, cleanup }) => ({ id, state, cleanup }));
  const events = new Events(nowNs, () => {});
  const row = sandbox(state);
  table.put(row);
  writes.length = 0;
  return { row, table, writes, published: follow(events), states: new SandboxStates(table, events) };
}

type Transition = 'creating' | 'ready' | 'notReady' | 'stopped' | 'removing' | 'cleanUpPending';

/** The diagram of src/node/store/sandbox.ts, written out a second time. */
const ALLOWED: Record<Transition, { from: SandboxState[]; to: SandboxState; events: string[] }> = {
  creating: { from: ['creating'], to: 'creating', events: [] },
  ready: { from: ['creating'], to: 'ready', events: ['created', 'started'] },
  notReady: { from: ['ready'], to: 'notready', events: ['stopped'] },
  stopped: { from: ['ready', 'notready', 'stopped'], to: 'stopped', events: [] },
  removing: { from: ['stopped', 'removing'], to: 'removing', events: [] },
  cleanUpPending: { from: ['creating', 'removing'], to: 'removing', events: [] },
};

const apply = (states: SandboxStates, transition: Transition, row: SandboxRow) =>
  transition === 'cleanUpPending' ? states.cleanUpPending(row, 'DEL failed') : states[transition](row);

for (const [name, { from, to, events }] of Object.entries(ALLOWED)) {
  const transition = name as Transition;
  for (const state of SANDBOX_STATES) {
    if (from.includes(state)) {
      test(`${transition} takes a sandbox from ${state} to ${to}, stored before it is published`, async () => {
        const { row, table, writes, published, states } = make(state);
        apply(states, transition, row);
        assert.equal(row.state, to);
        assert.equal(table.get('pod1'), row);
        assert.deepEqual(
          writes.map((write) => write?.state),
          [to],
        );
        const expected = transition === 'stopped' && state === 'ready' ? ['stopped'] : events;
        assert.deepEqual(
          await published(),
          expected.map((type) => [type, 'pod1', 'pod1']),
        );
      });
    } else {
      test(`${transition} refuses a sandbox that is ${state}, and changes nothing`, async () => {
        const { row, writes, published, states } = make(state);
        const before = structuredClone(row);
        assert.throws(
          () => apply(states, transition, row),
          (error) => codeOf(error) === 'INTERNAL' && new RegExp(`pod1 cannot go from ${state} to `).test(String(error)),
        );
        assert.deepEqual(row, before);
        assert.deepEqual(writes, []);
        assert.deepEqual(await published(), []);
      });
    }
  }
}

test('a sandbox has a time of creation when it is ready, and not before', () => {
  const { row, states } = make('creating');
  states.creating(row);
  assert.equal(row.createdAt, 0n);
  const before = nowNs();
  states.ready(row);
  assert.ok(row.createdAt >= before && row.createdAt <= nowNs());
});

test('a pending clean-up is stored with its reason; the count of retries stays until a retry changes it', () => {
  const { row, writes, states } = make('creating');
  states.cleanUpPending(row, 'DEL failed');
  states.cleanUpPending(row, 'DEL failed again', 1);
  states.cleanUpPending(row, 'the daemon ended');
  assert.deepEqual(
    writes.map((write) => write?.cleanup),
    [
      { failed: 'DEL failed', attempts: 0 },
      { failed: 'DEL failed again', attempts: 1 },
      { failed: 'the daemon ended', attempts: 1 },
    ],
  );
});

test('what is forgotten has no row; its removal is published apart, once all of it is gone', async () => {
  const { row, table, writes, published, states } = make('stopped');
  states.removing(row);
  states.forget(row);
  states.forget(row);
  assert.equal(table.get('pod1'), undefined);
  assert.equal(writes.at(-1), undefined);
  states.removed(row);
  assert.deepEqual(await published(), [['deleted', 'pod1', 'pod1']]);
});

test('a store that cannot write keeps the event from being published', async () => {
  const { row, table, published, states } = make('creating');
  table.update = () => {
    throw new Error('database or disk is full');
  };
  assert.throws(() => states.ready(row), /disk is full/);
  assert.deepEqual(await published(), []);
});

test('a sandbox that was removed meanwhile is not stored again by what still holds its row', () => {
  const { row, table, writes, states } = make('removing');
  states.forget(row);
  states.cleanUpPending(row, 'the undo ended after its time limit');
  assert.equal(table.get('pod1'), undefined);
  assert.deepEqual(writes, [undefined]);
});

test('the row of a launch is stored when the launch begins', () => {
  const { table, writes, states } = make('creating');
  const row = { ...sandbox('creating'), id: 'pod2' };
  states.creating(row);
  assert.equal(table.get('pod2'), row);
  assert.equal(writes.length, 1);
});
