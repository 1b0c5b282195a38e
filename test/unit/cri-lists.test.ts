/** Lists are put together from items that were encoded before: they must say what an encoding anew would. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ListPodSandboxResponse, type PodSandbox, PodSandboxState } from '../../proto/gen/cri.ts';
import { EncodedItems, type Fields, itemOf } from '../../src/main/cri/encoded-items.ts';

interface Row {
  id: string;
  metadata: PodSandbox['metadata'];
  ready: boolean;
  labels: Record<string, string>;
}

const annotations = {};

const FIELDS: Fields<Row, PodSandbox> = {
  id: ({ id }) => id,
  metadata: ({ metadata }) => metadata,
  state: ({ ready }) => (ready ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY),
  createdAt: () => 1_700_000_000_000_000_001n,
  labels: ({ labels }) => labels,
  annotations: () => annotations,
  runtimeHandler: () => '',
};

function setUp() {
  const encodings: string[] = [];
  const encoded = new EncodedItems<Row, PodSandbox, ListPodSandboxResponse>(FIELDS, (pod) => {
    encodings.push(pod.id);
    return ListPodSandboxResponse.encode({ items: [pod] }).finish();
  });
  const rows = ['a', 'b', 'c'].map((id): Row => {
    const metadata = { name: id, namespace: 'default', uid: `uid-${id}`, attempt: 0 };
    return { id, metadata, ready: true, labels: { app: id } };
  });
  const check = () => {
    const { bytes } = encoded.response(rows);
    assert.deepEqual(ListPodSandboxResponse.decode(bytes), { items: rows.map((row) => itemOf(FIELDS, row)) });
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
