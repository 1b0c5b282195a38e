/** Lists are put together from items that were encoded before: they must say what an encoding anew would. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ListPodSandboxResponse, type PodSandbox, PodSandboxState } from '../../proto/gen/cri.ts';
import { EncodedItems } from '../../src/main/cri/encoded-items.ts';

interface Row {
  id: string;
  ready: boolean;
  labels: Record<string, string>;
}

const annotations = {};

const itemOf = ({ id, ready, labels }: Row): PodSandbox => ({
  id,
  metadata: { name: id, namespace: 'default', uid: `uid-${id}`, attempt: 0 },
  state: ready ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY,
  createdAt: 1_700_000_000_000_000_001n,
  labels,
  annotations,
  runtimeHandler: '',
});

function setUp() {
  const encodings: string[] = [];
  const encoded = new EncodedItems<Row, PodSandbox, ListPodSandboxResponse>((pod) => {
    encodings.push(pod.id);
    return ListPodSandboxResponse.encode({ items: [pod] }).finish();
  });
  const rows = ['a', 'b', 'c'].map((id): Row => ({ id, ready: true, labels: { app: id } }));
  // As the verbs do it: the metadata of a row is one object.
  const metadata = new Map(rows.map((row) => [row, itemOf(row).metadata]));
  const items = () => rows.map((row) => ({ row, item: { ...itemOf(row), metadata: metadata.get(row) } }));
  const check = () => {
    const { bytes } = encoded.response(items());
    assert.deepEqual(ListPodSandboxResponse.decode(bytes), { items: items().map(({ item }) => item) });
    return encodings.splice(0);
  };
  return { rows, check };
}

test('an item is encoded once, and again when a field of it has changed', () => {
  const { rows, check } = setUp();
  assert.deepEqual(check(), ['a', 'b', 'c']);
  assert.deepEqual(check(), []);
  const [, second, third] = rows as [Row, Row, Row];
  second.ready = false;
  assert.deepEqual(check(), ['b']);
  third.labels = { app: 'other' };
  assert.deepEqual(check(), ['c']);
  assert.deepEqual(check(), []);
});

test('rows that are gone are in no list, and an empty list is an empty message', () => {
  const { rows, check } = setUp();
  check();
  rows.shift();
  assert.deepEqual(check(), []);
  rows.length = 0;
  assert.deepEqual(check(), []);
});
